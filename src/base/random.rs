//! Random bytes from the system.

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base::error::{Error, Result};

pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::failed("cannot get random bytes from the system"))?;
    Ok(bytes)
}

/// 24 random hex digits, for marks and ids: a tool cannot guess them before it has started.
pub(crate) fn random_word() -> Result<String> {
    let bytes = bytes::<12>()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
