//! Signs requests as Standard Webhooks do, <https://www.standardwebhooks.com>: HMAC-SHA256 over id, time and body.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret in its written form begins with.
const PREFIX: &str = "whsec_";
/// How long a key is by the specification; text without the prefix that decodes to anything else is no key in base64.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Secrets are copied around by people, who lose the padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A secret of which no key can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// It is empty.
    #[error("the signing secret is empty")]
    Empty,
    /// What follows `whsec_` is not base64.
    #[error("what follows `whsec_` is not base64")]
    NotBase64,
}

/// The key that signs. Prints as nothing: it is a secret.
#[derive(Clone)]
pub struct Signer {
    key: Vec<u8>,
}

impl Signer {
    /// Reads a secret: base64 behind `whsec_`, base64 of 24 to 64 bytes without it, or else the bytes of the text itself.
    ///
    /// # Errors
    ///
    /// [`InvalidSecret`] when it is empty, or has the prefix and is not base64.
    pub fn new(secret: &str) -> Result<Self, InvalidSecret> {
        let key = if let Some(encoded) = secret.strip_prefix(PREFIX) {
            LENIENT.decode(encoded).map_err(|_| InvalidSecret::NotBase64)?
        } else {
            let decoded = LENIENT.decode(secret).ok();
            let is_key = |key: &Vec<u8>| KEY_BYTES.contains(&key.len());
            decoded.filter(is_key).unwrap_or_else(|| secret.as_bytes().to_vec())
        };
        if key.is_empty() {
            return Err(InvalidSecret::Empty);
        }
        Ok(Self { key })
    }

    /// The value of `webhook-signature` for a body sent under `id` at `timestamp`, in seconds since the Unix epoch.
    #[must_use]
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key of any length is taken");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_that_other_implementations_test_with_is_signed_alike() {
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        for secret in [
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ] {
            let signer = Signer::new(secret).unwrap();
            let body = br#"{"test": 2432232314}"#;
            assert_eq!(
                signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
                signature
            );
        }
    }

    #[test]
    fn a_secret_that_is_no_key_in_base64_is_its_own_key() {
        assert_eq!(Signer::new("hunter2").unwrap().key, b"hunter2");
        assert_eq!(Signer::new("topsecre").unwrap().key, b"topsecre");
        assert_eq!(Signer::new("whsec_aHVudGVyMg").unwrap().key, b"hunter2");
        assert_eq!(Signer::new("whsec_!").err(), Some(InvalidSecret::NotBase64));
        assert_eq!(Signer::new("").err(), Some(InvalidSecret::Empty));
        assert_eq!(Signer::new("whsec_").err(), Some(InvalidSecret::Empty));
    }
}
