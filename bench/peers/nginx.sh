#!/usr/bin/env bash
# nginx, Debian. Limiter: limit_req, keyed by client address. Metrics: stub_status, which is less.
# Where less than a sixteenth of its connections are free it closes those that have not asked yet: so many more.
case $1 in
caps) echo "h1 h2 ws ratelimit metrics:/metrics" ;;
version) nginx -v 2>&1 | sed 's/.*nginx.//' ;;
start)
cat > "$WORK/nginx.conf" <<E
daemon off; worker_processes $WORKERS; pid $WORK/nginx.pid; error_log $WORK/error.log error;
$([ "$(id -u)" != 0 ] || echo "user root;")
events { worker_connections $(((CONNECTIONS * 2 + 1000) * 16 / 15)); multi_accept on; }
http {
  access_log off; server_tokens off; default_type application/octet-stream;
  client_body_temp_path $WORK/cb; proxy_temp_path $WORK/pt; fastcgi_temp_path $WORK/ft; uwsgi_temp_path $WORK/ut; scgi_temp_path $WORK/st;
  keepalive_requests 1000000000; keepalive_timeout 600s; tcp_nodelay on;
  client_max_body_size 16m; client_body_buffer_size 32k;
  ssl_certificate $CERT; ssl_certificate_key $KEY; ssl_protocols TLSv1.2 TLSv1.3;
  map \$http_upgrade \$conn_up { default upgrade; '' ''; }
  map \$http_authorization \$authed { default 0; "$REST_KEY" 1; }
  limit_req_zone \$binary_remote_addr zone=api:10m rate=1000000r/s;
  upstream back { server 127.0.0.1:$BACKEND; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s; }
  proxy_http_version 1.1; proxy_max_temp_file_size 0; proxy_read_timeout 600s; proxy_send_timeout 600s;
  proxy_set_header Host \$host; proxy_set_header Connection \$conn_up; proxy_set_header Upgrade \$http_upgrade;
  proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto \$scheme;
  proxy_set_header X-Forwarded-Host \$http_host;
  server {
    listen $PORT ssl http2 backlog=4096;
    location /cobrowsing/api/ {
      if (\$authed = 0) { return 401; }
      limit_req zone=api burst=100000 nodelay;
      proxy_pass http://back/api/;
    }
    location /cobrowsing/ { client_max_body_size 0; proxy_request_buffering off; proxy_pass http://back/; }
  }
  server { listen 127.0.0.1:$ADMIN; location /metrics { stub_status; } }
}
E
exec ${RUN-} nginx -c "$WORK/nginx.conf" -p "$WORK" -e "$WORK/error.log" ;;
esac
