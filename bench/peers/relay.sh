#!/usr/bin/env bash
# The floor, not a peer: TLS 1.3 ended by OpenSSL and bytes relayed, with no HTTP at all (tools/relay.c).
case $1 in
caps) echo "h1 ws relay" ;;
version) echo "tools/relay.c, $(openssl version | cut -d' ' -f1-2)" ;;
start) exec ${RUN-} "$BIN_DIR/relay" "$PORT" "$BACKEND" "$CERT" "$KEY" ;;
esac
