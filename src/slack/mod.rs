pub(crate) mod markdown;
