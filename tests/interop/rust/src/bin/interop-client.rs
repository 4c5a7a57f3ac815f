//! A program that updates itself, as any host of the crate would.
//!
//! Usage: `interop-client API_URL PUBLIC_KEY_HEX SECONDS`
//!
//! A release of it is this program with `\nVERSION=1.2.3` appended, so each has its own hash and knows its version.
//! Prints `running VERSION pid PID`, each change of its status, and the crate's log, which says why it refused an
//! update. Checks at its start and every SECONDS (whole, not 0). The default action of SIGTERM ends it.

use patchify::client::{Config, Updater};
use rubedo::{crypto::VerifyingKey, std::ByteSized as _};
use semver::Version;
use std::{env, fs, process, time::Duration};
use tokio::sync::broadcast::error::RecvError;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().init();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [api, key, seconds] = arguments.as_slice() else {
        panic!("usage: interop-client API_URL PUBLIC_KEY_HEX SECONDS");
    };
    let version = own_version();
    println!("running {version} pid {}", process::id());
    let updater = Updater::new(Config {
        version,
        api: api.parse().expect("an address that ends in a slash"),
        key: VerifyingKey::from_hex(key).expect("a public key in hex"),
        check_on_startup: true,
        check_interval: Some(Duration::from_secs(seconds.parse().expect("a number of seconds"))),
    })
    .expect("an updater");
    let mut changes = updater.subscribe();
    loop {
        match changes.recv().await {
            Ok(status) => println!("{status}"),
            Err(RecvError::Lagged(_)) => {} // their channel holds one change; what came in between is lost
            Err(RecvError::Closed) => break,
        }
    }
}

fn own_version() -> Version {
    let program = fs::read(env::current_exe().expect("the path of this program")).expect("this program's bytes");
    let tail = String::from_utf8_lossy(&program[program.len().saturating_sub(100)..]);
    let (_, version) = tail.rsplit_once("\nVERSION=").expect("VERSION= at the end of this program");
    version.parse().expect("a version")
}
