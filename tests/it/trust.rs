//! TLS to the three servers with a private certificate authority, and credentials of NATS.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coupon_dispatcher::servers::Setup;
use nkeys::KeyPair as NatsKey;
use outbox_relay::Shard;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use serde_json::{Value, json};

use crate::support::subscriber::{coupons, issued, subscriber, until};
use crate::support::{SOON, World, free_port, newest_nats_server, wait_until};
use crate::tls::authority;

pub(crate) fn written(path: &Path, text: &str) -> String {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The files of a certificate for this machine and of its key, which the owner of `of` may read, and nobody else.
pub(crate) fn certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    folder: &Path,
    of: &Path,
) -> [String; 2] {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let name = of.file_name().unwrap().to_str().unwrap();
    let files = [
        written(&folder.join(format!("{name}.crt")), &certificate.pem()),
        written(&folder.join(format!("{name}.key")), &key.serialize_pem()),
    ];
    let owner = fs::metadata(of).unwrap();
    chown(&files[1], Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(&files[1], fs::Permissions::from_mode(0o600)).unwrap();
    files
}

fn arguments(arguments: &[&str]) -> Setup {
    Setup { arguments: arguments.iter().map(ToString::to_string).collect(), ..Setup::default() }
}

/// All three servers take TLS; the file of their authority is answered.
async fn with_tls(world: &mut World) -> String {
    let (authority, folder) = (authority("ours"), world.folder().to_owned());
    let ca = written(&folder.join("ca.pem"), &authority.pem());
    let servers = &mut world.servers;
    let [file, key] = certificate(&authority, &folder, servers.postgres.dir());
    let (file, key) = (format!("ssl_cert_file={file}"), format!("ssl_key_file={key}"));
    servers.postgres.restart_with(arguments(&["-c", "ssl=on", "-c", &file, "-c", &key])).await.unwrap();
    let [file, key] = certificate(&authority, &folder, servers.redis.dir());
    let redis = free_port();
    let port = redis.to_string();
    let tls =
        ["--tls-port", &port, "--tls-cert-file", &file, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    servers.redis.restart_with(arguments(&tls)).await.unwrap();
    let [file, key] = certificate(&authority, &folder, servers.nats.dir());
    // The test itself asks without TLS.
    let tls = format!("tls {{ cert_file: {file:?}, key_file: {key:?} }}\nallow_non_tls: true\n");
    let config = written(&folder.join("tls.conf"), &tls);
    servers.nats.restart_with(arguments(&["-c", &config])).await.unwrap();
    let postgres = servers.postgres.port();
    world.set("DATABASE_URL", database_url(postgres, &ca));
    world.set("REDIS_URL", format!("rediss://127.0.0.1:{redis}"));
    world.set("REDIS_CA", &*ca);
    let nats = world.servers.nats.port();
    world.set("NATS_URL", format!("tls://127.0.0.1:{nats}"));
    world.set("NATS_CA", &*ca);
    ca
}

fn database_url(port: u16, ca: &str) -> String {
    format!("postgres://coupon@127.0.0.1:{port}/coupon?sslmode=verify-full&sslrootcert={ca}")
}

#[tokio::test]
async fn a_private_authority_is_trusted_for_all_three_servers() {
    let mut world = World::bare(1).await;
    with_tls(&mut world).await;
    world.migrate().await;
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let (sessions, over_tls): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name = 'coupon'",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    assert!(sessions > 0 && sessions == over_tls, "{over_tls} of {sessions}");
    let doctor = world.coupon(&["doctor"]).await;
    assert!(!doctor.out.contains("answers: "), "{doctor:?}");
    world.close().await;
}

/// It reads the variables of the service, and as the service it speaks to no server in plain text.
#[tokio::test]
async fn the_example_of_a_subscriber_trusts_a_private_authority() {
    let mut world = World::bare(1).await;
    let (ours, folder) = (authority("ours"), world.folder().to_owned());
    let dir = folder.join("nats-with-tls");
    fs::create_dir(&dir).unwrap();
    let [file, key] = certificate(&ours, &folder, &dir);
    let (program, port) = (newest_nats_server(), free_port().to_string());
    let [program, dir] = [&program, &dir].map(|path| path.to_str().unwrap());
    let own = [program, "-a", "127.0.0.1", "-p", &port, "-js", "-sd", dir];
    let tls = ["--tls", "--tlscert", &file, "--tlskey", &key];
    let mut nats = world.program("nats-with-tls", &[&own[..], &tls].concat());
    nats.launch();
    wait_until("NATS is ready", SOON, async || nats.log().contains("Server is ready")).await;
    let plain = world.servers.nats_url();
    let url = format!("nats://127.0.0.1:{port}");
    let ca = written(&folder.join("ca.pem"), &ours.pem());
    world.set("NATS_URL", &*url);
    world.set("NATS_CA", &*ca);
    world.migrate().await;
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.balanced().await;
    let head = world.outbox(Shard(0)).await.len() as i64;

    let database = folder.join("loyalty.db");
    let reader = |url: &str, ca: &str| {
        let mut reader = subscriber(&world, &["COUPONS-0", "loyalty", database.to_str().unwrap()]);
        reader.set("NATS_URL", url);
        reader.set("NATS_CA", ca);
        reader
    };
    until(&mut reader(&url, &ca), head).await;
    assert_eq!(coupons(&database).await, issued(&world).await);
    let other = written(&folder.join("other.pem"), &authority("theirs").pem());
    let missing = folder.join("missing.pem").to_str().unwrap().to_owned();
    for (url, ca, words) in [
        (&url, &other, "CERTIFICATE_VERIFY_FAILED".to_owned()),
        (&plain, &ca, "does not require TLS, and NATS_CA is set".to_owned()),
        (&url, &missing, format!("NATS_CA names {missing}, which cannot be read")),
    ] {
        let mut reader = reader(url, ca);
        reader.launch();
        wait_until("it says what is wrong", SOON, async || reader.log().contains(&words)).await;
        assert_eq!(reader.log().matches("starting after").count(), 1, "that of the first: {}", reader.log());
    }
    world.close().await;
}

#[tokio::test]
async fn another_authority_is_refused_and_the_message_says_what_to_do() {
    let mut world = World::bare(1).await;
    with_tls(&mut world).await;
    world.migrate().await;
    let other = written(&world.folder().join("other.pem"), &authority("theirs").pem());
    let database = database_url(world.servers.postgres.port(), &other);
    for (variable, value, server, cure) in [
        ("DATABASE_URL", &database, "Postgres at", "in the parameter sslrootcert of DATABASE_URL"),
        ("REDIS_CA", &other, "Redis at", "in REDIS_CA"),
        ("NATS_CA", &other, "NATS at", "in NATS_CA"),
    ] {
        for command in ["audit", "doctor"] {
            let finished = world.coupon_with(&[command], &[(variable, value.clone())]).await;
            assert_ne!(finished.code, Some(0), "{finished:?}");
            let told = format!("{}{}", finished.out, finished.err);
            let cure = format!("name the PEM file of that authority {cure}");
            assert!(told.contains(&cure), "{variable}: {finished:?}");
            assert!(command == "doctor" || told.contains(server), "{variable}: {finished:?}");
        }
    }
    world.set("REDIS_CA", other);
    let mut process = world.process("");
    process.launch();
    let told = async || process.log().contains("name the PEM file of that authority in REDIS_CA");
    wait_until("the log says what to do", SOON, told).await;
    drop(process);
    world.set("REDIS_CA", world.folder().join("ca.pem").to_str().unwrap().to_owned());
    world.close().await;
}

#[tokio::test]
async fn a_file_that_is_missing_or_malformed_is_a_problem_of_the_configuration() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    let broken = written(&world.folder().join("broken.pem"), "hunter2");
    let folder = world.folder().to_str().unwrap().to_owned();
    let torn = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let torn = written(&world.folder().join("torn.pem"), torn);
    let told = async |variables: &[(&'static str, String)], problems: &[String]| {
        let finished = world.coupon_with(&["audit"], variables).await;
        assert_eq!((finished.code, &*finished.out), (Some(2), ""), "{finished:?}");
        for problem in problems {
            assert!(finished.err.contains(problem), "{problem}: {finished:?}");
        }
        assert!(!finished.err.contains("hunter2"), "{finished:?}");
    };
    let secure = ("REDIS_URL", "rediss://localhost".to_owned());
    let variables = [
        ("DATABASE_URL", database_url(world.servers.postgres.port(), "/nowhere.pem")),
        secure.clone(),
        ("REDIS_CA", broken.clone()),
        ("NATS_CA", folder.clone()),
        ("NATS_CREDENTIALS", broken.clone()),
    ];
    let problems = [
        "DATABASE_URL names /nowhere.pem, which cannot be read".to_owned(),
        format!("REDIS_CA names {broken}, which holds no certificate in PEM"),
        format!("NATS_CA names {folder}, which cannot be read: it is not a file"),
        format!("NATS_CREDENTIALS names {broken}, which holds no credentials of NATS"),
    ];
    told(&variables, &problems).await;
    let problem = format!("REDIS_CA names {torn}, which holds a certificate that cannot be read");
    told(&[secure, ("REDIS_CA", torn.clone())], &[problem]).await;
    told(&[("REDIS_CA", torn)], &["REDIS_CA needs a REDIS_URL that starts with rediss://".to_owned()]).await;
    world.set("NATS_URL", world.servers.nats_url());
    world.close().await;
}

/// A signed claim of NATS about `subject`: <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt>.
fn token(issuer: &NatsKey, subject: &NatsKey, name: &str, nats: &Value) -> String {
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": name, "nats": nats,
    });
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = format!("{}.{}", encoded(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encoded(&claims));
    let signature = issuer.sign(body.as_bytes()).unwrap();
    format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A file as `nsc` writes it.
fn credentials(path: &Path, account: &NatsKey) -> String {
    let user = NatsKey::new_user();
    let rights =
        json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
    let token = token(account, &user, "service", &rights);
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    written(path, &text)
}

#[tokio::test]
async fn a_file_of_credentials_logs_in_to_nats() {
    let mut world = World::bare(1).await;
    let folder = world.folder().to_owned();
    let (operator, system, account) =
        (NatsKey::new_operator(), NatsKey::new_account(), NatsKey::new_account());
    let unlimited = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": unlimited });
    let mut of_system = of_account.clone();
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        of_system["limits"][limit] = json!(0);
    }
    let port = free_port();
    let config = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {:?} }}\noperator: {}\nsystem_account: {}\n\
         resolver: MEMORY\nresolver_preload {{\n  {}: {}\n  {}: {}\n}}\n",
        folder.join("with-operator"),
        token(&operator, &operator, "operator", &json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        system.public_key(),
        token(&operator, &system, "system", &of_system),
        account.public_key(),
        token(&operator, &account, "account", &of_account),
    );
    let config = written(&folder.join("operator.conf"), &config);
    let mut nats =
        world.program("nats-with-operator", &[newest_nats_server().to_str().unwrap(), "-c", &config]);
    nats.launch();
    wait_until("NATS is ready", SOON, async || nats.log().contains("Server is ready")).await;
    world.set("NATS_URL", format!("nats://127.0.0.1:{port}"));
    world.set("NATS_CREDENTIALS", credentials(&folder.join("service.creds"), &account));
    world.migrate().await;
    world.add_process("").await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    world.assert_published().await;
    let refused = async |variables: &[(&'static str, String)], words: &str| {
        let finished = world.coupon_with(&["audit"], variables).await;
        assert_ne!(finished.code, Some(0), "{finished:?}");
        assert!(finished.err.contains(words), "{finished:?}");
    };
    let stranger = credentials(&folder.join("stranger.creds"), &NatsKey::new_account());
    refused(&[("NATS_CREDENTIALS", stranger)], &format!("NATS at nats://127.0.0.1:{port} cannot be reached"))
        .await;
    refused(&[("NATS_URL", format!("nats://a:b@127.0.0.1:{port}"))], "NATS_URL has a login: one must go")
        .await;
    world.close().await;
    drop(nats);
}
