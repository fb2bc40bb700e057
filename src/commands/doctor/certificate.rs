//! What there is to say of the certificates beside that they are a good set: that is compiled.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Findings;
use crate::config::Config;
use crate::snapshot::Snapshot;

/// A certificate that ends within these days should have been replaced.
const SOON: i64 = 21;

pub(super) fn look(config: &Config, snapshot: &Snapshot, found: &mut Findings) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    if let Some(flaw) = snapshot.tls.flaw(now) {
        found.problem(format!("certificate: {flaw}: replace it, or set the clock"));
        return;
    }
    for facts in &snapshot.tls.certificates {
        let name = &facts.name;
        let days = (facts.not_after - now) / 86_400;
        let end = UNIX_EPOCH + Duration::from_secs(facts.not_after.max(0) as u64);
        let until = format!(
            "for {}, valid until {} ({days} days)",
            facts.names,
            httpdate::fmt_http_date(end)
        );
        if days < SOON {
            found.warning(format!("certificate {name}: {until}: renew it; what replaces the file is served without a restart"));
        } else if facts.self_signed {
            let how = match config.tls.development {
                true => {
                    "development only: set tls.development = false and a certificate of an authority"
                }
                false => "browsers warn of it unless they were told to trust it",
            };
            found.warning(format!("certificate {name}: {until}, self-signed: {how}"));
        } else if facts.chain == 1 {
            found.warning(format!("certificate {name}: {until}, alone in its file: clients that lack the issuer's certificate refuse it; append the intermediate certificates, unless a root signed it"));
        } else {
            found.ok(format!(
                "certificate {name}: {until}, a chain of {} in order, with its key",
                facts.chain
            ));
        }
    }
}
