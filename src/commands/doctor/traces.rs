//! Whether the receiver of traces takes them: asked by the code that sends them, with an export that
//! has no spans.

use http::StatusCode;

use super::Findings;
use crate::config::units::Span;
use crate::config::{Config, Packing};
use crate::otlp::{self, Failure, Settings};

/// Where receivers take gRPC, by convention.
const GRPC: u16 = 4317;

pub(super) async fn look(config: &Config, settings: Option<&Settings>, found: &mut Findings) {
    let Some(settings) = settings else {
        return;
    };
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{}{}", settings.authority, settings.path);
    match Box::pin(otlp::try_out(settings)).await {
        Ok(taken) if taken.is_page => found.warning(format!("traces: {url} answers with a page for people: is it a receiver of OTLP? Set trace.endpoint to the one of your collector, port 4318 by convention")),
        Ok(_) => found.ok(format!("traces: {url} takes them")),
        Err(failure) => {
            let hint = hint(config, settings, &failure);
            found.problem(format!("traces: {url}: {failure}: {hint}"));
        }
    }
}

/// What to change.
fn hint(config: &Config, settings: &Settings, failure: &Failure) -> String {
    let over_tls = settings.tls.is_some();
    match failure {
        Failure::Unreachable(_) => "start the receiver there, or set trace.endpoint; OTLP over HTTP has port 4318 by convention".into(),
        Failure::Late { connected: false } => format!("trace.timeout is {}: is the address right, does a firewall stand between?", Span(settings.timeout)),
        Failure::Late { connected: true } if settings.port == GRPC => GRPC_PORT.into(),
        Failure::Late { connected: true } if !over_tls => format!("trace.timeout is {}: does the port speak HTTP without TLS? Set trace.endpoint to https:// and trace.ca if not", Span(settings.timeout)),
        Failure::Late { connected: true } => format!("trace.timeout is {}: is the receiver overloaded?", Span(settings.timeout)),
        Failure::Tls(e) => tls_hint(e),
        Failure::NoAnswer(_) if settings.port == GRPC => GRPC_PORT.into(),
        Failure::NoAnswer(_) => "it does not speak HTTP/1.1 there: is it the port of OTLP over HTTP (4318 by convention, 4317 is gRPC's), and with TLS or without, as trace.endpoint says?".into(),
        Failure::Refused(status) => refusal(config, settings, *status),
    }
}

const GRPC_PORT: &str = "port 4317 is that of OTLP over gRPC by convention, which is not spoken here: set trace.endpoint to that of OTLP over HTTP, port 4318 by convention";

fn tls_hint(e: &std::io::Error) -> String {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. })) => {
            "its certificate is for other names: set trace.endpoint to one of them"
        }
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. })) => {
            "its certificate has expired: it needs a new one"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            "its certificate is signed by none of trace.ca: set that to the authority that signed it"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS there: set trace.endpoint to http://, or to its port with TLS"
        }
        _ => "does it speak TLS there, and want no certificate of its clients?",
    }
    .into()
}

fn refusal(config: &Config, settings: &Settings, status: StatusCode) -> String {
    let packed = config.trace.compression == Packing::Gzip;
    match status.as_u16() {
        301 | 302 | 303 | 307 | 308 => {
            "redirections are not followed: set trace.endpoint to where it leads".into()
        }
        401 | 403 => "it wants to know who we are: put its key into trace.headers or trace.headers_file".into(),
        404 | 405 | 501 => format!("it takes no traces at {}: set trace.endpoint to its URL without /v1/traces, or with what stands before that at this receiver", settings.path),
        400 | 415 if packed => "it does not understand what it is sent: try trace.compression = \"none\"; it must take OTLP as protobuf".into(),
        400 | 415 => "it does not understand what it is sent: it must take OTLP as protobuf".into(),
        429 | 502 | 503 | 504 => "it is overloaded, or what it sends to does not answer: look at the receiver".into(),
        _ => "look at the receiver's log".into(),
    }
}
