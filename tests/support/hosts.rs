//! Several hosts on one machine: network namespaces on a bridge that has a namespace of its own, so that nothing outside them
//! changes and runs at the same time do not meet. Needs root and iproute2.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{cluster::Job, programs::program, running::Running};

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// A network of hosts with the addresses 10.77.0.1, 10.77.0.2, …; gone when it is dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    hosts: Vec<Host>,
}

/// A host of it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name in this network.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    space: String,
    /// The bridge's end of its cable, in the bridge's namespace.
    socket: [String; 2],
}

impl Network {
    /// Hosts with these names, all connected; `None` with a line that says why where that cannot be.
    #[expect(clippy::print_stdout, reason = "a story that does not run says so")]
    pub fn of<const HOSTS: usize>(names: [&str; HOSTS]) -> Option<(Self, [Host; HOSTS])> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut network = Self { name: format!("imagenet-{}-{number}", std::process::id()), hosts: Vec::new() };
        match network.build(&names) {
            Ok(()) => {
                let hosts: Vec<Host> = network.hosts.clone();
                Some((network, hosts.try_into().expect("one for each name")))
            }
            Err(why) => {
                println!("skipped: several hosts need root and iproute2 ({why})");
                None
            }
        }
    }

    fn build(&mut self, names: &[&str]) -> Result<(), String> {
        let bridge = self.name.clone();
        ip(&["netns", "add", &bridge])?;
        ip(&["-n", &bridge, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &bridge, "link", "set", "bridge", "up"])?;
        for (number, name) in (1..).zip(names) {
            let (space, socket) = (format!("{bridge}-{name}"), format!("to{number}"));
            let address = Ipv4Addr::new(10, 77, 0, number);
            ip(&["netns", "add", &space])?;
            self.hosts.push(Host {
                name: (*name).to_owned(),
                address,
                space: space.clone(),
                socket: [bridge.clone(), socket.clone()],
            });
            ip(&["-n", &bridge, "link", "add", &socket, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(&["-n", &bridge, "link", "set", &socket, "master", "bridge", "up"])?;
            ip(&["-n", &space, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
            for device in ["lo", "eth0"] {
                ip(&["-n", &space, "link", "set", device, "up"])?;
            }
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            drop(ip(&["netns", "delete", &host.space]));
            drop(fs::remove_dir_all(host.files()));
        }
        drop(ip(&["netns", "delete", &self.name]));
    }
}

impl Host {
    /// The command under which a program runs on this host.
    pub fn command(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.space]
    }

    /// Starts a worker on it, with exactly these arguments.
    pub fn start_worker<'word>(&self, job: &Job, args: impl IntoIterator<Item = &'word str>) -> Running {
        let [ip, words @ ..] = self.command();
        let mut command = Command::new(ip);
        command.args(words).arg(program("worker")).args(args);
        job.start_program(command)
    }

    /// Does something on this host; sockets that are made there belong to it.
    pub fn on<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.space)).expect("the host is there");
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("the host is ours");
                act()
            });
            acting.join().expect("what is done on a host does not panic")
        })
    }

    /// Gives it one more address, which only programs on this host reach: one that looks public, for example.
    #[track_caller]
    pub fn add_address(&self, address: Ipv4Addr) {
        must(ip(&["-n", &self.space, "addr", "add", &format!("{address}/32"), "dev", "lo"]));
    }

    /// Pulls its cable, or plugs it in again.
    #[track_caller]
    pub fn pull(&self, pulled: bool) {
        let [bridge, socket] = &self.socket;
        must(ip(&["-n", bridge, "link", "set", socket, if pulled { "down" } else { "up" }]));
    }

    /// Makes its cable so narrow, in both directions, e.g. `64kbit`.
    #[track_caller]
    pub fn narrow(&self, rate: &str) {
        let [bridge, socket] = &self.socket;
        for (space, device) in [(&self.space, "eth0"), (bridge, socket.as_str())] {
            let limit = ["rate", rate, "burst", "4k", "latency", "2s"];
            must(run("tc", &[&["-n", space, "qdisc", "replace", "dev", device, "root", "tbf"], &limit[..]].concat()));
        }
    }

    /// What names mean on this host, as in `/etc/hosts`: for programs that are started afterwards, and for the running ones if
    /// something was said before they were started.
    #[track_caller]
    pub fn know(&self, hosts: &str) {
        let folder = self.files();
        fs::create_dir_all(&folder).expect("root may write there");
        fs::write(folder.join("nsswitch.conf"), "hosts: files\n").expect("root may write there");
        fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{hosts}")).expect("root may write there");
    }

    /// What stands in here is in `/etc` for programs on this host.
    fn files(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.space)
    }
}

#[track_caller]
fn must(done: Result<(), String>) {
    done.unwrap_or_else(|why| panic!("{why}"));
}

fn ip(args: &[&str]) -> Result<(), String> {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program} {}: {said}", args.join(" "))) }
}
