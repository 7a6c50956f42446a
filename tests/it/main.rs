//! The integration tests: mom as built, against fakes and a real Docker engine.

mod docker;
mod scratch;

mod docker_sh;
