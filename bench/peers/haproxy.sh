#!/usr/bin/env bash
# HAProxy, Debian. Limiter: a stick table, keyed by client address.
BIN=${HAPROXY_BIN:-haproxy}
case $1 in
caps) echo "h1 h2 ws ratelimit metrics:/metrics" ;;
version) "$BIN" -v | head -1 | cut -d' ' -f3 ;;
start)
if "$BIN" -vv | grep -q '+PROMEX'; then EXPORTER="http-request use-service prometheus-exporter if { path /metrics }"
else EXPORTER="stats enable
  stats uri /metrics"; fi
cat "$CERT" "$KEY" > "$WORK/all.pem"
cat > "$WORK/haproxy.cfg" <<E
global
  nbthread $WORKERS
  maxconn $((CONNECTIONS + 500))
  tune.ssl.cachesize 50000
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
  timeout http-keep-alive 600s
  http-reuse always
frontend gw
  bind *:$PORT ssl crt $WORK/all.pem alpn h2,http/1.1 backlog 4096
  stick-table type ip size 100k expire 30s store http_req_rate(10s)
  acl is_api path_beg /cobrowsing/api/
  acl authed req.hdr(authorization) -m str $REST_KEY
  http-request return status 401 if is_api !authed
  http-request track-sc0 src if is_api
  http-request return status 429 if is_api { sc_http_req_rate(0) gt 1000000000 }
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Proto https
  option forwardfor
  http-request set-path %[path,regsub(^/cobrowsing/,/)] if { path_beg /cobrowsing/ }
  default_backend back
backend back
  server b 127.0.0.1:$BACKEND
frontend admin
  bind 127.0.0.1:$ADMIN
  $EXPORTER
E
exec ${RUN-} "$BIN" -db -f "$WORK/haproxy.cfg" ;;
esac
