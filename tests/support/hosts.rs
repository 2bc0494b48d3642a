//! Several hosts on one machine: network namespaces, connected by a bridge in a namespace of its
//! own. The machine's own network is not changed and parallel runs do not interfere. Needs root and
//! iproute2.

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

/// A network of hosts with the addresses 10.77.0.1, 10.77.0.2 and so on; removed when dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    hosts: Vec<Host>,
}

/// A host of a [`Network`].
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name in this network.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    space: String,
    /// The namespace and the name of the veth device at the bridge.
    socket: [String; 2],
}

impl Network {
    /// Creates connected hosts with these names; prints the reason and returns `None` where that is
    /// not possible.
    #[expect(clippy::print_stdout, reason = "a skipped test prints the reason")]
    pub fn of<const HOSTS: usize>(names: [&str; HOSTS]) -> Option<(Self, [Host; HOSTS])> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut network = Self {
            name: format!("imagenet-{}-{number}", std::process::id()),
            hosts: Vec::new(),
        };
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
            let space = format!("{bridge}-{name}");
            let socket = format!("to{number}");
            let address = Ipv4Addr::new(10, 77, 0, number);
            ip(&["netns", "add", &space])?;
            self.hosts.push(Host {
                name: (*name).to_owned(),
                address,
                space: space.clone(),
                socket: [bridge.clone(), socket.clone()],
            });
            ip(&[
                "-n", &bridge, "link", "add", &socket, "type", "veth", "peer", "name", "eth0",
                "netns", &space,
            ])?;
            ip(&[
                "-n", &bridge, "link", "set", &socket, "master", "bridge", "up",
            ])?;
            ip(&[
                "-n",
                &space,
                "addr",
                "add",
                &format!("{address}/24"),
                "dev",
                "eth0",
            ])?;
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
    /// The command prefix that runs a program on this host.
    pub fn command(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.space]
    }

    /// Starts a worker on this host, with exactly these arguments.
    pub fn start_worker<'word>(
        &self,
        job: &Job,
        args: impl IntoIterator<Item = &'word str>,
    ) -> Running {
        let [ip, words @ ..] = self.command();
        let mut command = Command::new(ip);
        command.args(words).arg(program("worker")).args(args);
        job.start_program(command)
    }

    /// Runs a function on this host; sockets that it creates belong to the host.
    pub fn on<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.space)).expect("the namespace exists");
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter the namespace");
                act()
            });
            acting.join().expect("the function does not panic")
        })
    }

    /// Adds an address that only programs on this host reach, for example one outside the private
    /// ranges.
    #[track_caller]
    pub fn add_address(&self, address: Ipv4Addr) {
        must(ip(&[
            "-n",
            &self.space,
            "addr",
            "add",
            &format!("{address}/32"),
            "dev",
            "lo",
        ]));
    }

    /// Takes the host's network link down or up.
    #[track_caller]
    pub fn set_link_down(&self, down: bool) {
        let [bridge, socket] = &self.socket;
        must(ip(&[
            "-n",
            bridge,
            "link",
            "set",
            socket,
            if down { "down" } else { "up" },
        ]));
    }

    /// Limits the rate of the link in both directions, for example to `64kbit`.
    #[track_caller]
    pub fn limit_rate(&self, rate: &str) {
        let [bridge, socket] = &self.socket;
        for (space, device) in [(&self.space, "eth0"), (bridge, socket.as_str())] {
            let limit = ["rate", rate, "burst", "4k", "latency", "2s"];
            must(run(
                "tc",
                &[
                    &[
                        "-n", space, "qdisc", "replace", "dev", device, "root", "tbf",
                    ],
                    &limit[..],
                ]
                .concat(),
            ));
        }
    }

    /// Sets the host's `/etc/hosts`. Applies to programs started afterwards, and to running ones if
    /// it was set once before their start.
    #[track_caller]
    pub fn know(&self, hosts: &str) {
        let folder = self.files();
        fs::create_dir_all(&folder).expect("root may write there");
        fs::write(folder.join("nsswitch.conf"), "hosts: files\n").expect("root may write there");
        fs::write(
            folder.join("hosts"),
            format!("127.0.0.1 localhost\n{hosts}"),
        )
        .expect("root may write there");
    }

    /// The folder whose files `ip netns exec` mounts over those in `/etc`.
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
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program} {}: {stderr}", args.join(" ")))
    }
}
