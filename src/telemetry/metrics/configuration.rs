//! What is in force, and what became of reloads.

use prometheus::{Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec, Registry, Result};

use super::families::{counters_of, gauge, gauges, timestamp, timestamps};
use super::unix_now;

/// What is in force, and what became of reloads.
pub struct ConfigurationMetrics {
    pub api_enabled: IntGauge,
    pub certificate_not_after: GaugeVec,
    successful: IntGauge,
    loaded: Gauge,
    tried: Gauge,
    generation: IntGauge,
    reloads_ok: IntCounter,
    reloads_failed: IntCounter,
    info: IntGaugeVec,
}

impl ConfigurationMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self> {
        let [reloads_ok, reloads_failed] = counters_of(
            r,
            "gateway_config_reloads_total",
            "Attempts to reload the configuration, by result (ok, failed).",
            "result",
            ["ok", "failed"],
        )?;
        Ok(Self {
            api_enabled: gauge(
                r,
                "gateway_api_enabled",
                "1 when a key is configured, 0 when the API is closed.",
            )?,
            certificate_not_after: timestamps(
                r,
                "gateway_tls_cert_not_after_timestamp_seconds",
                "When the served certificate expires, Unix time.",
                &["name"],
            )?,
            successful: gauge(
                r,
                "gateway_config_last_reload_successful",
                "1 when the last attempt to load the configuration succeeded.",
            )?,
            loaded: timestamp(
                r,
                "gateway_config_last_reload_timestamp_seconds",
                "When the configuration in force was loaded, Unix time.",
            )?,
            tried: timestamp(
                r,
                "gateway_config_last_reload_attempt_timestamp_seconds",
                "When it was last tried to load a configuration, Unix time.",
            )?,
            generation: gauge(
                r,
                "gateway_config_generation",
                "How many times the configuration was reloaded since the start.",
            )?,
            reloads_ok,
            reloads_failed,
            info: gauges(
                r,
                "gateway_config_info",
                "1; the label is a digest of the configuration in force.",
                &["hash"],
            )?,
        })
    }

    pub(super) fn loaded(&self, hash: &str, generation: i64) {
        self.info.reset();
        self.info.with_label_values(&[hash]).set(1);
        self.successful.set(1);
        let now = unix_now() as f64;
        self.loaded.set(now);
        self.tried.set(now);
        self.generation.set(generation);
        if generation > 0 {
            self.reloads_ok.inc();
        }
    }

    pub(super) fn rejected(&self) {
        self.successful.set(0);
        self.tried.set(unix_now() as f64);
        self.reloads_failed.inc();
    }
}
