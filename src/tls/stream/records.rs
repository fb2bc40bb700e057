//! Records after a handshake (RFC 8446 section 5, RFC 5246 section 6): rustls' ciphers, applied where the
//! bytes lie. No socket is known here.

use std::ops::Range;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, HandshakeType, InvalidMessage,
    PeerMisbehaved, ProtocolVersion, SupportedCipherSuite,
};

/// Bytes before what a record carries: type, version, length.
pub(super) const HEADER: usize = 5;
/// The most that a record carries, bytes.
pub(super) const LARGEST: usize = 16 << 10;
/// The most of a sealed one, as rustls has it: TLS 1.2 allows so much more.
pub(super) const LARGEST_SEALED: usize = HEADER + LARGEST + 2047;
/// The least of a sealed one with data in TLS 1.3: its type and a tag.
pub(super) const SMALLEST_SEALED: usize = HEADER + 17;

/// As many warnings, requests for new keys without data between them, records in a row that carry nothing, and
/// requests for a new handshake as rustls takes from a client.
const WARNINGS: u8 = 4;
const UPDATES: u8 = 32;
const EMPTY: u8 = 32;
const RENEGOTIATIONS: u8 = 1;

const NO_RENEGOTIATION: [u8; 2] = [WARNING, 100];
const CLOSE_NOTIFY: [u8; 2] = [WARNING, 0];
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What a record was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Data, which lies in this part of the record.
    Data(Range<usize>),
    /// Something that is for TLS alone.
    Nothing,
    /// Something that is to be answered with this at once.
    Answer(Vec<u8>),
    /// The client sends nothing more.
    End,
}

/// The keys of a connection, each with the number of the next record.
pub(super) struct Records {
    pub(super) opening: (Box<dyn MessageDecrypter>, u64),
    pub(super) sealing: (Box<dyn MessageEncrypter>, u64),
    /// As many records as one key may seal.
    pub(super) limit: u64,
    /// Bytes of a sealed record before those that it carries.
    front: usize,
    suite: SupportedCipherSuite,
    /// Makes the keys that follow.
    pub(super) schedule: Box<KernelConnection<ServerConnectionData>>,
    /// Sealed, and to be sent before anything else.
    owed: Vec<u8>,
    /// New keys of ours are among it.
    owes_update: bool,
    warnings: u8,
    updates: u8,
    empty: u8,
    renegotiations: u8,
}

impl Records {
    /// Goes on where the handshake of `session` has ended.
    pub(super) fn after(session: UnbufferedServerConnection, owed: Vec<u8>) -> Result<Self, Error> {
        let (secrets, schedule) = session.dangerous_into_kernel_connection()?;
        let suite = schedule.negotiated_cipher_suite();
        let front = match suite {
            SupportedCipherSuite::Tls12(tls12) => {
                tls12.aead_alg.key_block_shape().explicit_nonce_len
            }
            SupportedCipherSuite::Tls13(_) => 0,
        };
        Ok(Self {
            opening: opening(suite, secrets.rx)?,
            sealing: sealing(suite, secrets.tx)?,
            limit: match suite {
                SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
                SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            },
            front: HEADER + front,
            suite,
            schedule: Box::new(schedule),
            owed,
            owes_update: false,
            warnings: 0,
            updates: 0,
            empty: 0,
            renegotiations: 0,
        })
    }

    fn is_tls13(&self) -> bool {
        matches!(self.suite, SupportedCipherSuite::Tls13(_))
    }

    /// Opens a whole record, in its place.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Error> {
        let (header, sealed) = record
            .split_at_mut_checked(HEADER)
            .ok_or(InvalidMessage::MessageTooShort)?;
        let kind = ContentType::from(header[0]);
        if self.is_tls13() && kind != ContentType::ApplicationData {
            return Err(unexpected(kind));
        }
        let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
        let message = InboundOpaqueMessage::new(kind, version, sealed);
        let plain = self.opening.0.decrypt(message, self.opening.1)?;
        self.opening.1 += 1;
        self.empty = if plain.payload.is_empty() {
            self.empty + 1
        } else {
            0
        };
        if self.empty > EMPTY {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        match plain.typ {
            ContentType::ApplicationData if plain.payload.is_empty() => Ok(Opened::Nothing),
            ContentType::ApplicationData => {
                self.updates = 0;
                Ok(Opened::Data(self.front..self.front + plain.payload.len()))
            }
            ContentType::Alert => match *plain.payload {
                [level, what] => self.alerted(level, what),
                _ => Err(InvalidMessage::MessageTooShort.into()),
            },
            ContentType::Handshake => match *plain.payload {
                [24, 0, 0, 1, asked @ (0 | 1)] if self.is_tls13() => self.updated(asked == 1),
                [24, 0, 0, 1, _] if self.is_tls13() => Err(InvalidMessage::InvalidKeyUpdate.into()),
                [1, ..] if !self.is_tls13() => self.asked_again(),
                _ => Err(Error::InappropriateHandshakeMessage {
                    expect_types: vec![HandshakeType::KeyUpdate],
                    got_type: HandshakeType::from(plain.payload.first().copied().unwrap_or(0)),
                }),
            },
            kind => Err(unexpected(kind)),
        }
    }

    fn alerted(&mut self, level: u8, what: u8) -> Result<Opened, Error> {
        let what = AlertDescription::from(what);
        if what == AlertDescription::CloseNotify {
            return Ok(Opened::End);
        }
        // RFC 8446 section 6: all but these end the connection, whatever level they claim.
        let harmless = !self.is_tls13() || what == AlertDescription::UserCanceled;
        if level != WARNING || !harmless {
            return Err(Error::AlertReceived(what));
        }
        self.warnings += 1;
        if self.warnings > WARNINGS {
            return Err(PeerMisbehaved::TooManyWarningAlertsReceived.into());
        }
        Ok(Opened::Nothing)
    }

    /// The client has new keys, and may want some of us, too (RFC 8446 section 4.6.3).
    fn updated(&mut self, asked: bool) -> Result<Opened, Error> {
        self.updates += 1;
        if self.updates > UPDATES {
            return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        }
        self.opening = opening(self.suite, self.schedule.update_rx_secret()?)?;
        // One answer is enough for all that came before it is sent.
        if asked && !self.owes_update {
            self.update()?;
        }
        Ok(Opened::Nothing)
    }

    /// New keys for what is sealed from now on.
    fn update(&mut self) -> Result<(), Error> {
        self.owe(ContentType::Handshake, &[24, 0, 0, 1, 0])?;
        self.owes_update = true;
        self.sealing = sealing(self.suite, self.schedule.update_tx_secret()?)?;
        Ok(())
    }

    /// TLS 1.2: the client wants another handshake. It is told once that there is none.
    fn asked_again(&mut self) -> Result<Opened, Error> {
        self.renegotiations += 1;
        if self.renegotiations > RENEGOTIATIONS {
            return Err(PeerMisbehaved::TooManyRenegotiationRequests.into());
        }
        self.owe(ContentType::Alert, &NO_RENEGOTIATION)?;
        Ok(Opened::Answer(self.take_owed()))
    }

    /// Data of [`LARGEST`] at most, as what is to be sent.
    pub(super) fn seal(&mut self, data: OutboundChunks<'_>) -> Result<Vec<u8>, Error> {
        // The last one that the key may seal says that another follows.
        if self.sealing.1 + 1 >= self.limit {
            if !self.is_tls13() {
                return Err(Error::EncryptError);
            }
            self.update()?;
        }
        let sealed = self.sealed(ContentType::ApplicationData, data)?;
        if self.owed.is_empty() {
            return Ok(sealed);
        }
        let mut owed = self.take_owed();
        owed.extend_from_slice(&sealed);
        Ok(owed)
    }

    /// What says that nothing more follows; `why`: a fault of the client's.
    pub(super) fn seal_end(&mut self, why: Option<&Error>) -> Result<Vec<u8>, Error> {
        let alert = why.map_or(CLOSE_NOTIFY, |e| [FATAL, alert_of(e).into()]);
        self.owe(ContentType::Alert, &alert)?;
        Ok(self.take_owed())
    }

    fn take_owed(&mut self) -> Vec<u8> {
        self.owes_update = false;
        std::mem::take(&mut self.owed)
    }

    fn owe(&mut self, kind: ContentType, message: &[u8]) -> Result<(), Error> {
        let sealed = self.sealed(kind, message.into())?;
        self.owed.extend_from_slice(&sealed);
        Ok(())
    }

    fn sealed(&mut self, typ: ContentType, payload: OutboundChunks<'_>) -> Result<Vec<u8>, Error> {
        let message = plain(typ, payload);
        let sealed = self.sealing.0.encrypt(message, self.sealing.1)?;
        self.sealing.1 += 1;
        Ok(sealed.encode())
    }
}

/// The length of the record that `bytes` begin with, once they tell.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let [kind, major, _, high, low, ..] = *bytes else {
        return Ok(None);
    };
    if !(20..=23).contains(&kind) {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    if major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if length > LARGEST_SEALED {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok(Some(length))
}

fn plain(typ: ContentType, payload: OutboundChunks<'_>) -> OutboundPlainMessage<'_> {
    OutboundPlainMessage {
        typ,
        version: ProtocolVersion::TLSv1_2,
        payload,
    }
}

fn unexpected(got_type: ContentType) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type,
    }
}

/// What a client is told of its fault.
fn alert_of(e: &Error) -> AlertDescription {
    match e {
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    }
}

type Secrets = (u64, ConnectionTrafficSecrets);

pub(super) fn opening(
    suite: SupportedCipherSuite,
    (sequence, secrets): Secrets,
) -> Result<(Box<dyn MessageDecrypter>, u64), Error> {
    let (key, iv) = parts(secrets)?;
    let cipher = match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
        }
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
    };
    Ok((cipher, sequence))
}

pub(super) fn sealing(
    suite: SupportedCipherSuite,
    (sequence, secrets): Secrets,
) -> Result<(Box<dyn MessageEncrypter>, u64), Error> {
    let (key, iv) = parts(secrets)?;
    let mut cipher = match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            let (fixed, explicit) = iv.as_ref().split_at(fixed);
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
    };
    if sequence > 0 {
        // The cipher sees to it that no number comes twice, and counts from the first that it is given. It
        // must be the very first one; what it seals here goes nowhere.
        cipher.encrypt(plain(ContentType::ApplicationData, [].as_slice().into()), 0)?;
    }
    Ok((cipher, sequence))
}

fn parts(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher that is not known here".into())),
    }
}
