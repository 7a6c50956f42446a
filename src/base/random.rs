//! Random bits from the system.

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base::error::{Error, Result};

/// 24 hex digits, for marks and ids: no tool can guess the word before it has started.
pub(crate) fn random_word() -> Result<String> {
    let mut bytes = [0; 12];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::failed("cannot get random bytes from the system"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
