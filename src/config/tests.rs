//! The configuration as a whole: what is missing, wrong or left out.

use super::*;

const SERVERS: [(&str, &str); 3] = [
    ("DATABASE_URL", "postgres://user:hunter2@db:5432/coupon?password=hunter2"),
    ("REDIS_URL", "redis://:hunter2@cache/0"),
    ("NATS_URL", "nats://user:hunter2@bus:4222"),
];

fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

#[test]
fn all_problems_are_told_at_once() {
    let Err(ConfigError(problems)) = read(&[
        ("DATABASE_URL", "mysql://x"),
        ("NATS_URL", ""),
        ("HTTP_ADDR", "8080"),
        ("SHARDS", "0"),
        ("NATS_REPLICAS", "2"),
        ("ADMIN_TOKEN", "short"),
    ]) else {
        panic!("accepted")
    };
    let variables: Vec<_> = problems.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(
        variables,
        ["DATABASE_URL", "REDIS_URL", "NATS_URL", "SHARDS", "NATS_REPLICAS", "HTTP_ADDR", "ADMIN_TOKEN"]
    );
}

#[test]
fn a_number_says_what_it_may_be() {
    let wrong = read(&[&SERVERS[..], &[("SHARDS", "65"), ("NATS_REPLICAS", "2")]].concat());
    let Err(ConfigError(problems)) = wrong else { panic!("accepted") };
    assert_eq!(problems, ["SHARDS must be a number, 1 to 64", "NATS_REPLICAS must be 1, 3 or 5"]);
}

#[test]
fn a_url_that_its_driver_cannot_read_is_a_problem() {
    let Err(ConfigError(problems)) =
        read(&[("DATABASE_URL", "postgres://db:port"), ("REDIS_URL", "redis://cache:port"), SERVERS[2]])
    else {
        panic!("accepted")
    };
    assert_eq!(
        problems,
        ["DATABASE_URL cannot be read as a URL of Postgres", "REDIS_URL cannot be read as a URL of Redis"]
    );
}

#[test]
fn what_is_not_set_has_the_default_of_the_table() -> Result<(), ConfigError> {
    let config = read(&SERVERS)?;
    let Config { http, shards, replicas, batch_rows, outbox_retention, .. } = config;
    assert_eq!((http, shards, replicas), (SocketAddr::from(([127, 0, 0, 1], 8080)), 1, 1));
    assert_eq!(batch_rows, 500);
    assert_eq!(outbox_retention, Some(Duration::from_secs(30 * 24 * 3_600)));
    assert!(!config.listens_without_api && config.admin_token.is_none());
    Ok(())
}

#[test]
fn the_url_of_a_server_that_is_not_needed_may_be_missing() {
    let find = |name: &str| (name == SERVERS[0].0).then(|| SERVERS[0].1.to_owned());
    let missing = |needs: Needs| {
        let problems = Config::read_for(needs, find).err().map(|ConfigError(problems)| problems);
        problems.unwrap_or_default().iter().map(|line| line[..9].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(missing(Needs::Postgres), [""; 0]);
    assert_eq!(missing(Needs::PostgresAndNats), ["NATS_URL "]);
    assert_eq!(missing(Needs::All), ["REDIS_URL", "NATS_URL "]);
    let wrong = |name: &str| if name == "REDIS_URL" { Some("mysql://x".to_owned()) } else { find(name) };
    assert!(Config::read_for(Needs::Postgres, wrong).is_err(), "what is set is read");
}

#[test]
fn secrets_are_not_shown() -> Result<(), ConfigError> {
    let config = read(&[&SERVERS[..], &[("ADMIN_TOKEN", "hunter2-hunter2-hunter2")]].concat())?;
    let shown = format!("{config:?} {} {} {}", config.database, config.redis, config.nats);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("postgres://db:5432/coupon"), "{shown}");
    Ok(())
}
