//! Serves releases below `/api` on loopback, as any host of the crate would.
//!
//! Usage: `interop-server PORT APPNAME PRIVATE_KEY_HEX RELEASES_FOLDER [VERSION=SHA256]...`
//!
//! Port 0 takes a free one. Prints `listening on PORT` when it is ready; the default action of SIGTERM ends it.

use axum::{routing::get, Extension, Router};
use patchify::server::{Axum, Config, Core};
use rubedo::{
    crypto::{Sha256Hash, SigningKey},
    std::ByteSized as _,
};
use semver::Version;
use std::{collections::HashMap, env, sync::Arc};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().init();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, appname, key, releases, versions @ ..] = arguments.as_slice() else {
        panic!("usage: interop-server PORT APPNAME PRIVATE_KEY_HEX RELEASES_FOLDER [VERSION=SHA256]...");
    };
    let core = Core::new(Config {
        appname: appname.clone(),
        key: SigningKey::from_hex(key).expect("a private key in hex"),
        releases: releases.into(),
        stream_threshold: 1000,
        stream_buffer: 256,
        read_buffer: 128,
        versions: versions.iter().map(|each| release(each)).collect::<HashMap<_, _>>(),
    })
    .expect("sound releases");
    let app = Router::new()
        .route("/api/latest", get(Axum::get_latest_version))
        .route("/api/hashes/{version}", get(Axum::get_hash_for_version))
        .route("/api/releases/{version}", get(Axum::get_release_file))
        .layer(Extension(Arc::new(core)));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("a free port");
    println!("listening on {}", listener.local_addr().expect("an address").port());
    axum::serve(listener, app).await.expect("to serve");
}

fn release(argument: &str) -> (Version, Sha256Hash) {
    let (version, hash) = argument.split_once('=').expect("VERSION=SHA256");
    (version.parse().expect("a version"), Sha256Hash::from_hex(hash).expect("a SHA-256 in hex"))
}
