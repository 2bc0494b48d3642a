//! The structure of the sources: imports between the modules of a crate run one way, and files are
//! short.
//!
//! A module here is a file or folder directly below `src`, including everything in it. Modules
//! inside such a folder may import each other. Tests may import any module.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, UseTree,
    visit::{self, Visit},
};

/// Maximum number of lines of a source file without its tests.
const LONGEST_FILE: usize = 400;
const CRATES: [&str; 4] = ["shared", "worker", "coordinator", "python"];
/// What is defined or re-exported in `lib.rs`.
const ROOT: &str = "the root of the crate";
/// The folders of the worker, each of which imports only from those behind it.
const WORKER: [&str; 8] = [
    "session", "slots", "fetch", "parts", "extract", "origin", "storage", "observe",
];

/// A source file.
struct Source {
    path: PathBuf,
    /// Its module path, e.g. `["origin", "limiter"]`; empty for `lib.rs`.
    module: Vec<String>,
    text: String,
}

fn sources(name: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
        .join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the sources are there") {
            let path = entry.expect("a folder is listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inner = path
                    .strip_prefix(&root)
                    .expect("it is below")
                    .with_extension("");
                let module = inner
                    .iter()
                    .map(|part| part.to_str().expect("names are UTF-8").to_owned());
                let module = module
                    .filter(|part| part != "lib" && part != "main")
                    .collect();
                found.push(Source {
                    text: fs::read_to_string(&path).expect("it is readable"),
                    path,
                    module,
                });
            }
        }
    }
    let least = if name == "python" { 5 } else { 20 };
    assert!(found.len() > least, "the sources of {name} were found");
    found
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        is_cfg
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

/// Collects the paths that a file uses, each from the root of its crate.
struct Uses {
    /// The module path at the visitor's current position.
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
}

impl Uses {
    fn note(&mut self, path: &[String]) {
        let mut absolute = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                name => absolute.push(name.to_owned()),
            }
        }
        self.found.insert(absolute);
    }

    fn note_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|tree| self.note_tree(before, tree)),
            UseTree::Name(name) => self.note(&with(&name.ident)),
            UseTree::Rename(rename) => self.note(&with(&rename.ident)),
            UseTree::Glob(_) => self.note(before),
        }
    }

    /// Collects paths in the arguments of a macro, which `syn` does not parse.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if path.is_empty() || colons == 2 => {
                    path.push(name.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                TokenTree::Ident(name) => {
                    self.note(&std::mem::take(&mut path));
                    path.push(name.to_string());
                    colons = 0;
                    continue;
                }
                _ => {}
            }
            self.note(&std::mem::take(&mut path));
            colons = 0;
        }
        self.note(&path);
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.note(&parts);
        visit::visit_path(self, path);
    }

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.note_tokens(called.tokens.clone());
    }
}

/// The modules that each module of a crate imports.
fn imports(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeSet<&String> = sources
        .iter()
        .filter_map(|source| source.module.first())
        .collect();
    let is_test = |source: &&Source| source.module.iter().any(|part| part == "tests");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !is_test(source)) {
        let Some(own) = source.module.first() else {
            continue;
        };
        let mut uses = Uses {
            module: source.module.clone(),
            found: BTreeSet::new(),
        };
        uses.visit_file(&syn::parse_file(&source.text).expect("it is Rust"));
        for path in uses.found {
            let imported = path.first().filter(|name| modules.contains(name));
            // What is not in a module is the root's, which imports all modules.
            let imported = imported
                .cloned()
                .unwrap_or_else(|| format!("{ROOT} ({})", path.join("::")));
            if imported != *own {
                found.entry(own.clone()).or_default().insert(imported);
            }
        }
    }
    found
}

/// A cycle through a module, if there is one.
fn cycle(imports: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for next in imports
            .get(way.last().expect("a way begins somewhere"))
            .into_iter()
            .flatten()
        {
            let longer = [way.as_slice(), std::slice::from_ref(next)].concat();
            if next == start {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

#[test]
fn imports_between_modules_run_one_way() {
    for name in CRATES {
        let imports = imports(&sources(name));
        for (module, imported) in &imports {
            let of_root: Vec<&String> = imported
                .iter()
                .filter(|name| name.starts_with(ROOT))
                .collect();
            assert!(
                of_root.is_empty(),
                "{name}: {module} imports what lib.rs defines or re-exports: {of_root:?}"
            );
            assert_eq!(cycle(&imports, module), None, "{name}: a cycle of imports");
        }
    }
}

#[test]
fn the_folders_of_the_worker_import_in_the_order_of_a_class() {
    let imports = imports(&sources("worker"));
    for (place, folder) in WORKER.iter().enumerate() {
        assert!(
            imports.contains_key(*folder) || *folder == "observe",
            "{folder} was found"
        );
        for above in &WORKER[..place] {
            let imported = imports.get(*folder);
            assert!(
                imported.is_none_or(|imported| !imported.contains(*above)),
                "{folder} imports {above}"
            );
        }
    }
    let [parts, extract, origin, storage] =
        ["parts", "extract", "origin", "storage"].map(|folder| &imports[folder]);
    assert!(
        !parts.contains("extract"),
        "`parts` and `extract` do not import each other"
    );
    assert!(
        !origin.contains("storage"),
        "`origin` and `storage` do not import each other"
    );
    assert!(
        !extract.contains("origin") && !storage.contains("observe"),
        "reading and writing a tar needs no network"
    );
}

#[test]
fn a_cycle_is_found() {
    let edges = [("a", "b"), ("b", "c"), ("c", "b"), ("b", "d")];
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in edges {
        imports
            .entry(from.to_owned())
            .or_default()
            .insert(to.to_owned());
    }
    assert_eq!(cycle(&imports, "a"), None);
    assert_eq!(
        cycle(&imports, "b"),
        Some(["b", "c", "b"].map(str::to_owned).to_vec())
    );
}

#[test]
fn each_kind_of_use_is_found() {
    let text = "
        use crate::{one::{self, A}, two::*};
        use super::three::B;
        fn used(x: crate::four::C) { println!(\"{}\", crate::five::d(x, super::six::E)); }
        #[cfg(test)]
        mod tests { use crate::seven::F; }
    ";
    let mut uses = Uses {
        module: vec!["here".to_owned()],
        found: BTreeSet::new(),
    };
    uses.visit_file(&syn::parse_file(text).unwrap());
    let found: BTreeSet<&str> = uses.found.iter().map(|path| path[0].as_str()).collect();
    assert_eq!(found, ["one", "two", "three", "four", "five", "six"].into());
}

#[test]
fn files_without_their_tests_are_short() {
    let mut long = Vec::new();
    for name in CRATES {
        for source in sources(name) {
            let is_test = source.module.iter().any(|part| part == "tests");
            let own = source
                .text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap();
            let lines = own.lines().count();
            if lines > LONGEST_FILE && !is_test {
                long.push(format!("{}: {lines}", source.path.display()));
            }
        }
    }
    assert!(
        long.is_empty(),
        "files of more than {LONGEST_FILE} lines: {long:#?}"
    );
}
