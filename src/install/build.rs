//! Build script: leaves the tables for stack unwinding out of the release binary, an eighth
//! of it. Nothing unwinds there (`panic = "abort"`), and a backtrace without symbols says
//! nothing. No compiler flag does this: the standard library brings its tables along, and
//! link-time optimization spreads them to all of our code.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=src/install/discard.ld");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if release && linux {
        let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{dir}/src/install/discard.ld");
    }
}
