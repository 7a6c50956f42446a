//! The integration tests: mom as built, against a Slack and models in this process and a
//! real Docker engine.

mod docker;
mod http;
mod llm;
mod mom;
#[expect(dead_code, reason = "the parsers' own tests use all of it")]
#[path = "../../src/mutate.rs"]
mod mutate;
mod scratch;
mod slack;
mod tether;
mod tls;
mod watch;

mod docker_sh;
mod download;
mod fakes;
mod install;
mod newcomer;
mod readme;

mod approve;
mod attacks;
mod budget;
mod chat;
mod cli;
mod closed;
mod crash;
mod doctor;
mod events;
mod faults;
mod files;
mod memory;
mod mention;
mod people;
mod providers;
mod recover;
mod sandbox;
mod show;
mod steer;
mod stop;
mod thread;
mod tidy;
mod usage;
