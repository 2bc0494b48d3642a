//! What is planted under the name of the staging area, and in an area.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
};

use serde_json::json;
use tests::{archives::files, folders::snapshot, running::Signal};

use crate::scene::{
    Ending, Planted, Scene, WNID, attackers, attackers_file, attackers_folder, give, set_mode, victims,
};

/// A folder that every user can write to, such as /tmp.
const LIKE_TMP: u32 = 0o1777;
const ATTEMPT: &str = "n00000001.0123456789abcdef";

fn area(scene: &Scene) -> PathBuf {
    scene.place.join(".images.partial")
}

/// Offset of the second header of the tar.
fn second_header(tar: &[u8]) -> usize {
    let size = str::from_utf8(&tar[124..135]).expect("digits");
    512 + usize::from_str_radix(size, 8).expect("a size").next_multiple_of(512)
}

/// The journal of an attempt that claims that the first bytes of its tar are those of an empty
/// file.
fn lying_journal(scene: &Scene) -> String {
    let length = scene.tar.len();
    let source = json!({
        "url": format!("{}/{WNID}.tar", scene.origin.url()),
        "length": length,
        "etag": format!("\"{WNID}-v1-{length}\""),
        "last_modified": null,
    });
    let empty = blake3::hash(b"").to_hex();
    let end = second_header(&scene.tar);
    let file = json!({ "name": "a.JPEG", "size": 0, "blake3": empty.as_str(), "next_header": end });
    format!("{}\n{file}\n", json!({ "version": 1, "source": source }))
}

/// An attempt in an area whose tar is a link to a private file.
fn plant_attempt(scene: &Scene, area: &Path) {
    let attempt = area.join(ATTEMPT);
    attackers_folder(&attempt);
    attackers_folder(&attempt.join("class"));
    attackers_file(&attempt.join("class/a.JPEG"), b"");
    attackers_file(&attempt.join("journal"), lying_journal(scene).as_bytes());
    scene.plant(Planted::Link, &attempt.join("tar"));
}

#[test]
fn an_area_of_another_user_is_refused_and_stays_as_it_is() {
    for victim in victims() {
        for mode in [0o777, 0o1777, 0o755, 0o2777] {
            let scene = Scene::new(victim, LIKE_TMP, 0o755);
            attackers_folder(&area(&scene));
            plant_attempt(&scene, &area(&scene));
            set_mode(&area(&scene), mode);
            let before = snapshot(&area(&scene));
            let words = [
                ".images.partial",
                "belongs to user 54411",
                // It cannot be entered, or it can and is not used.
                if mode & 0o002 == 0 && victim != 0 {
                    "run it as user 54411"
                } else {
                    "run this program as user 54411"
                },
                "--staging",
            ];
            scene.run(&format!("an area with mode {mode:o}"), Ending::Refused(&words));
            assert!(snapshot(&area(&scene)) == before, "it was changed");
        }
    }
}

#[test]
fn a_link_or_a_file_under_the_areas_name_is_refused() {
    for victim in victims() {
        let scene = Scene::new(victim, LIKE_TMP, 0o755);
        symlink(scene.home(), area(&scene)).unwrap();
        attackers(&area(&scene));
        let words = [".images.partial: it is a symbolic link of user 54411", "remove it", "--staging"];
        scene.run("a link to a private folder", Ending::Refused(&words));
        for planted in Planted::ALL {
            let scene = Scene::new(victim, LIKE_TMP, 0o755);
            scene.plant(planted, &area(&scene));
            scene
                .run(&format!("{planted:?} under the area's name"), Ending::Refused(&[".images.partial", "--staging"]));
        }
    }
}

#[test]
fn an_area_of_ours_that_others_can_write_to_is_refused_and_nothing_is_lost() {
    for victim in victims() {
        for mode in [0o777, 0o775, 0o1777, 0o702] {
            let scene = Scene::new(victim, LIKE_TMP, 0o755);
            fs::create_dir(area(&scene)).unwrap();
            plant_attempt(&scene, &area(&scene));
            give(&area(&scene), victim, mode);
            let before = snapshot(&area(&scene));
            let words = [".images.partial", "other users can write to it", "chmod go-w"];
            scene.run(&format!("an area with mode {mode:o}"), Ending::Refused(&words));
            assert!(snapshot(&area(&scene)) == before, "it was changed");
            // Even one who does not look before: what is not of this program is not used.
            set_mode(&area(&scene), 0o700);
            scene.run("an attempt of the attacker", Ending::Done);
            assert!(fs::read(scene.target().join("n00000001.tar")).unwrap() == scene.tar);
        }
    }
}

/// The area that former versions had in the target.
#[test]
fn an_area_in_the_target_that_is_not_ours_is_neither_used_nor_removed() {
    for victim in victims() {
        let scene = Scene::new(victim, LIKE_TMP, 0o777);
        let link = scene.target().join(".partial");
        symlink(scene.home(), &link).unwrap();
        attackers(&link);
        scene.run("a link to a private folder", Ending::Done);

        let scene = Scene::new(victim, LIKE_TMP, 0o777);
        let former = scene.target().join(".partial");
        attackers_folder(&former);
        plant_attempt(&scene, &former);
        attackers_folder(&former.join("n00000002.1"));
        attackers_folder(&former.join("n00000002.1/replaced"));
        let before = snapshot(&former);
        scene.run("an area of the attacker", Ending::Done);
        assert!(snapshot(&former) == before, "it was changed");
        assert!(!scene.job.class_folder("n00000002").exists(), "what the attacker has made was published");
    }
}

/// Everything that an attempt consists of, as if it could have been planted after all.
#[test]
fn what_is_planted_in_an_attempt_is_not_followed() {
    let names = ["journal", "tar", "class", "parts", "parts/0.0123456789abcdef", "class/first", "replaced"];
    let victims = victims();
    // The kills wait for checkpoints, so they can wait beside each other.
    thread::scope(|scope| {
        for name in names {
            let victims = &victims;
            scope.spawn(move || {
                for (victim, planted) in
                    victims.iter().flat_map(|victim| Planted::ALL.map(|planted| (*victim, planted)))
                {
                    plant_in_attempt(victim, name, planted);
                }
            });
        }
    });
}

#[track_caller]
fn plant_in_attempt(victim: u32, name: &str, planted: Planted) {
    let scene = Scene::new(victim, LIKE_TMP, 0o755);
    let attempt = area(&scene).join(ATTEMPT);
    interrupted(&scene, &attempt);
    let first = files(&scene.tar).into_keys().next().expect("it has images");
    let place = attempt.join(name.replace("first", &first));
    if place.is_dir() {
        fs::remove_dir_all(&place).expect("root may");
    }
    fs::remove_file(&place).unwrap_or_default();
    if name.starts_with("parts/") && !attempt.join("parts").exists() {
        fs::create_dir(attempt.join("parts")).expect("root may");
        give(&attempt.join("parts"), victim, 0o755);
    }
    scene.plant(planted, &place);
    scene.run(&format!("{planted:?} as {name} of an attempt"), Ending::DoneOrFailed);
}

#[test]
fn a_journal_does_not_publish_what_its_tar_leads_to() {
    for victim in victims() {
        let scene = Scene::new(victim, LIKE_TMP, 0o755);
        let attempt = area(&scene).join(ATTEMPT);
        interrupted(&scene, &attempt);
        // The bytes are in a file of the victim's own, so only what they are tells.
        fs::copy(scene.secret(), attempt.join("tar")).unwrap();
        fs::write(attempt.join("journal"), lying_journal(&scene)).unwrap();
        fs::write(attempt.join("class/a.JPEG"), "").unwrap();
        give(&attempt.join("class/a.JPEG"), victim, 0o644);
        scene.run("a journal that lies", Ending::Done);
        assert!(fs::read(scene.target().join("n00000001.tar")).unwrap() == scene.tar);
    }
}

#[test]
fn a_lock_file_that_is_none_makes_nothing_wait() {
    for victim in victims() {
        for planted in Planted::ALL {
            let scene = Scene::new(victim, LIKE_TMP, 0o755);
            fs::create_dir(area(&scene)).unwrap();
            give(&area(&scene), victim, 0o700);
            scene.plant(planted, &area(&scene).join("in-use.0123456789abcdef"));
            scene.run(&format!("{planted:?} as a lock file"), Ending::Done);
        }
    }
}

/// An attempt of the victim's that was killed in the middle, under a fixed name.
fn interrupted(scene: &Scene, attempt: &Path) {
    scene.stall_at_half();
    let mut running = scene.job.start();
    running.wait_until("half of it is there", |_| {
        let attempts = fs::read_dir(area(scene)).into_iter().flatten().flatten();
        let found = attempts.map(|entry| entry.path()).find(|path| path.join("class").is_dir())?;
        let lines = fs::read_to_string(found.join("journal")).ok()?.lines().count();
        (lines > 2).then(|| fs::rename(found, attempt).expect("root may"))
    });
    running.signal(Signal::KILL);
    running.wait();
    scene.origin.end_stalls();
}
