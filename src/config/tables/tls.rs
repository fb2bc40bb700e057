//! `[tls]`: the certificates that are served.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{self, NEW_CONNECTIONS};

/// `[tls]`: the certificates that are served.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the certificate and its chain, the certificate first.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = NEW_CONNECTIONS))]
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = NEW_CONNECTIONS))]
    pub key: Option<PathBuf>,
    /// Further certificates, for clients that ask for one of their names (SNI).
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub additional: Vec<AdditionalCertificate>,
    /// PEM file with certificate authorities: every client, visitors' browsers included, must show
    /// a certificate that one of them has signed. Not set: clients need none.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = NEW_CONNECTIONS))]
    pub client_ca: Option<PathBuf>,
    /// The oldest version that is spoken.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub min_version: TlsVersion,
    /// Make a self-signed certificate when neither file is there. For development only.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub development: bool,
}

/// One `[[tls.additional]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdditionalCertificate {
    /// Name in metrics and errors: lower-case letters, digits, `_` and `-`; not `default`.
    pub name: String,
    /// PEM file with the certificate and its chain, the certificate first.
    #[schemars(with = "describe::File")]
    pub certificate: PathBuf,
    /// PEM file with the private key.
    #[schemars(with = "describe::File")]
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 only.
    #[serde(rename = "1.3")]
    V1_3,
}
