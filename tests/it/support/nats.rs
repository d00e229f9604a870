//! Worlds on a certain server of NATS, whichever one `NATS_SERVER` names, and stores that go back in time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use coupon_dispatcher::servers::{Server, Setup};

use super::{Process, SOON, World, free_port, newest_nats_server, packaged_nats_server, wait_until};

/// Which server of NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nats {
    /// Of the distribution.
    Packaged,
    Newest,
    /// Three of the packaged ones, with three replicas of every stream.
    PackagedCluster,
    NewestCluster,
}

impl Nats {
    fn program(self) -> PathBuf {
        if self.is_newest() { newest_nats_server() } else { packaged_nats_server() }
    }

    pub(crate) fn is_newest(self) -> bool {
        matches!(self, Self::Newest | Self::NewestCluster)
    }
}

impl World {
    /// A process for each of these lists of roles, on this kind of NATS.
    pub(crate) async fn on(nats: Nats, roles: &[&str]) -> Self {
        let mut world = Self::bare(1).await;
        match nats {
            Nats::Packaged | Nats::Newest => {
                let setup = Setup { program: Some(nats.program()), ..Setup::default() };
                world.servers.nats.restart_with(setup).await.unwrap();
            }
            Nats::PackagedCluster | Nats::NewestCluster => world.cluster(nats).await,
        }
        world.migrate().await;
        for roles in roles {
            world.add_process(roles).await;
        }
        world
    }

    /// Two nodes beside `servers.nats`: the first two of `processes`.
    async fn cluster(&mut self, nats: Nats) {
        self.replicas = 3;
        self.servers.nats.kill().await;
        let ports: Vec<_> = (0..7).map(|_| free_port()).collect();
        let routes: Vec<_> = ports[..3].iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let clustered = |node: usize| {
            let arguments =
                ["-cluster_name", "world", "-cluster", &routes[node], "-routes", &routes.join(",")];
            arguments.map(ToOwned::to_owned).to_vec()
        };
        let program = nats.program();
        for node in [1, 2] {
            let name = format!("nats-{node}");
            let dir = self.folder().join(&name);
            let (port, monitor) = (ports[2 + node].to_string(), ports[4 + node]);
            let monitored = monitor.to_string();
            let own = ["-a", "127.0.0.1", "-p", &port, "-m", &monitored, "-n", &name, "-js", "-sd"];
            let mut command = vec![program.to_str().unwrap()];
            command.extend(own);
            command.push(dir.to_str().unwrap());
            let clustered = clustered(node);
            command.extend(clustered.iter().map(String::as_str));
            let mut process = self.program(&name, &command);
            process.address.set_port(monitor);
            process.launch();
            self.processes.push(process);
        }
        let setup = Setup { program: Some(program), arguments: clustered(0), ..Setup::default() };
        self.servers.nats.restart_with(setup).await.unwrap();
        wait_until("the cluster has three nodes", SOON, async || {
            let info = self.nats().await.server_info();
            info.connect_urls.len() == 3
        })
        .await;
    }

    /// A copy of what NATS has on its disks at this moment, as if the power had failed.
    pub(crate) fn copy_of_nats(&self) -> PathBuf {
        let copy = self.folder().join("nats.copy");
        fs::create_dir(&copy).unwrap();
        self.nodes().for_each(Process::freeze);
        self.servers.nats.freeze();
        for dir in self.nats_dirs() {
            run("cp", &["-a".as_ref(), &dir, &copy]);
        }
        self.nodes().for_each(Process::thaw);
        self.servers.nats.thaw();
        copy
    }

    /// Kills NATS, and starts it with an earlier copy: what came since is lost.
    pub(crate) async fn rewind_nats(&mut self, copy: &Path) {
        self.stop_nats().await;
        for dir in self.nats_dirs() {
            run("rm", &["-rf".as_ref(), &dir]);
            run("cp", &["-a".as_ref(), &copy.join(dir.file_name().unwrap()), &dir]);
        }
        self.start_nats().await;
    }

    /// Kills all of its servers.
    pub(crate) async fn stop_nats(&mut self) {
        self.processes.iter_mut().filter(|process| is_node(process)).for_each(Process::kill);
        self.servers.nats.kill().await;
    }

    pub(crate) async fn start_nats(&mut self) {
        self.processes.iter_mut().filter(|process| is_node(process)).for_each(Process::launch);
        self.servers.nats.start().await.unwrap();
    }

    /// The nodes of a cluster beside `servers.nats`.
    fn nodes(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| is_node(process))
    }

    /// All processes but these.
    pub(crate) fn services(&mut self) -> impl Iterator<Item = &mut Process> {
        self.processes.iter_mut().filter(|process| !is_node(process))
    }

    fn nats_dirs(&self) -> Vec<PathBuf> {
        let own = self.servers.nats.dir().to_owned();
        self.nodes().map(|node| self.folder().join(&node.name)).chain([own]).collect()
    }

    /// The same of Postgres: a crash, and an old disk.
    pub(crate) fn copy_of_postgres(&self) -> PathBuf {
        copy_of(&self.servers.postgres)
    }

    pub(crate) async fn rewind_postgres(&mut self, copy: &Path) {
        self.servers.postgres.kill().await;
        put_back(&self.servers.postgres, copy);
        self.servers.postgres.start().await.unwrap();
    }

    /// The same of Redis: an old dump.
    pub(crate) fn copy_of_redis(&self) -> PathBuf {
        copy_of(&self.servers.redis)
    }

    pub(crate) async fn rewind_redis(&mut self, copy: &Path) {
        self.servers.redis.kill().await;
        put_back(&self.servers.redis, copy);
        self.servers.redis.start().await.unwrap();
    }
}

fn is_node(process: &Process) -> bool {
    process.name.starts_with("nats-")
}

/// Its clock is stopped meanwhile, as if the power had failed.
fn copy_of(server: &Server) -> PathBuf {
    let copy = server.dir().with_extension("copy");
    server.freeze();
    run("cp", &["-a".as_ref(), server.dir(), &copy]);
    server.thaw();
    copy
}

fn put_back(server: &Server, copy: &Path) {
    run("rm", &["-rf".as_ref(), server.dir()]);
    run("cp", &["-a".as_ref(), copy, server.dir()]);
}

fn run(program: &str, arguments: &[&Path]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}
