//! Build script: what makes the release binary smaller and cargo has no setting for.
//!
//! The tables for stack unwinding are left out, an eighth of it. Nothing unwinds there
//! (`panic = "abort"`), and a backtrace without symbols says nothing. No compiler flag does
//! this: the standard library brings its tables along, and link-time optimization spreads
//! them to all of our code.
//!
//! The unwinder itself comes from an archive, the little of it that std names: the shared
//! library would stay in memory with 100 KB, and cost 0.2 ms at start.
//!
//! The addresses that the loader fills in are packed (DT_RELR): bits instead of 24 bytes each.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/install/discard.ld");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    // The linker as configured, or as a flag for the compiler that calls it.
    let linker = env::var("RUSTC_LINKER").unwrap_or_default();
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let called = flags
        .split('\u{1f}')
        .find_map(|flag| flag.rsplit_once("-fuse-ld="));
    let called = called.map_or(linker.as_str(), |(_, name)| name);
    // These know nothing of additions to a script.
    let other = ["mold", "gold", "wild"]
        .iter()
        .any(|name| called.ends_with(name));
    if release && linux && !other {
        let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        // `-Wl,` is for a compiler that calls the linker, not for rust-lld itself.
        let pass = if linker.ends_with("ld") { "" } else { "-Wl," };
        println!("cargo::rustc-link-arg-bins={pass}--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins={pass}-T{dir}/src/install/discard.ld");
    }
    let gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    let native = release && env::var("HOST") == env::var("TARGET");
    if let Some(dir) = gcc_libraries().filter(|_| native && gnu) {
        println!("cargo::rustc-link-search=native={dir}");
        println!("cargo::rustc-link-lib=static=gcc_eh");
    }
    // An older glibc refuses such a binary, and only the one here can be asked.
    if native && glibc_minor() >= Some(36) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Where libgcc_eh.a is, if it is.
fn gcc_libraries() -> Option<String> {
    let asked = Command::new("cc")
        .arg("-print-file-name=libgcc_eh.a")
        .output();
    let told = String::from_utf8(asked.ok()?.stdout).ok()?;
    // Without a directory: not found.
    Some(told.rsplit_once('/')?.0.to_owned())
}

/// 36 where the C library is glibc 2.36.
fn glibc_minor() -> Option<u32> {
    let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let told = String::from_utf8(asked.ok()?.stdout).ok()?;
    told.trim().strip_prefix("glibc 2.")?.parse().ok()
}
