#!/usr/bin/env bash
# Peer file: how a side-by-side measurement starts the gateway. Called with caps, version or start;
# gets PORT, ADMIN, BACKEND, WORKERS, CERT, KEY, REST_KEY and a fresh folder WORK.
OURS_BIN=${OURS_BIN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/release/cobrowse-gateway}
case $1 in
caps) [ -x "$OURS_BIN" ] && echo "h1 h2 ws ratelimit metrics:/metrics" ;;
version) "$OURS_BIN" --version ;;
start)
cat > "$WORK/gateway.toml" <<T
[public]
base_endpoint = "https://localhost:$PORT/cobrowsing"
listen = "0.0.0.0:$PORT"
[tls]
certificate = "$CERT"
key = "$KEY"
[upstream]
url = "http://127.0.0.1:$BACKEND"
pool_size = 1024
pool_idle = "10m"
[api]
max_body = "16MiB"
[[rate_limit.policy]]
name = "client"
per = "client"
rate = "1000000000/1s"
[limits]
workers = $WORKERS
requests_per_client = "off"
[timeouts]
keep_alive = "10m"
[drain]
delay = "0s"
budget = "1s"
[log]
access = false
[admin]
listen = "127.0.0.1:$ADMIN"
T
exec ${RUN-} "$OURS_BIN" --config "$WORK/gateway.toml" ;;
esac
