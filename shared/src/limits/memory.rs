//! The memory limit of the process's control group: that of a container, a pod or a unit.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Mount point of control groups.
const MOUNT: &str = "/sys/fs/cgroup";
/// Limits from this value mean that there is none: cgroup v1 then reports a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// The lowest memory limit of the process's control group and its ancestors, in bytes. `None` if
/// there is none, or none that this process can see.
pub fn memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    lowest(&groups, Path::new(MOUNT))
}

/// `groups` is the text of `/proc/self/cgroup`, with one hierarchy on each line:
/// `number:controllers:path`.
fn lowest(groups: &str, mount: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        match controllers {
            "" => lowest_in(mount, group, "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                lowest_in(&mount.join("memory"), group, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    limits.min()
}

/// The lowest limit from the group up to the root, which in a container is the container's own
/// group. Groups that are not mounted are skipped.
fn lowest_in(root: &Path, group: &str, file: &str) -> Option<u64> {
    let group: PathBuf = root.join(group.trim_start_matches('/'));
    let groups = group
        .ancestors()
        .take_while(|group| group.starts_with(root));
    let limits = groups.filter_map(|group| {
        fs::read_to_string(group.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    limits.filter(|limit| *limit < NO_LIMIT).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_on_the_way_to_the_root_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = |groups: &str| lowest(groups, folder.path());
        write("memory.max", "max\n");
        assert_eq!(found("0::/\n"), None, "there is none");
        write("a/memory.max", "200000\n");
        write("a/b/memory.max", "300000\n");
        assert_eq!(found("0::/a/b\n"), Some(200_000));
        assert_eq!(found("0::/elsewhere/c\n"), None, "it is not mounted here");
        write("memory.max", "400000\n");
        assert_eq!(
            found("0::/elsewhere/c\n"),
            Some(400_000),
            "a container sees its own group as the root"
        );

        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/d/memory.limit_in_bytes", "100000\n");
        let both = "4:memory:/d\n3:cpu,cpuacct:/d\n0::/\n";
        assert_eq!(found(both), Some(100_000));
        assert_eq!(found("4:cpu,memory:/\n"), None);
        assert_eq!(found("nonsense\n"), None);
    }
}
