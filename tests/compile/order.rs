//! The same objects give the same bytes, whatever happened before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use gateway_agent::compile::compile;
use gateway_agent::index::{Change, Index, Object, ObjectId};
use gateway_agent::source::files::load_dir;
use proptest::prelude::*;

use crate::render;

/// The objects of every golden case.
static CASES: LazyLock<Vec<Vec<Object>>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile/cases");
    let mut dirs: Vec<_> = std::fs::read_dir(root).expect("the cases").map(|e| e.expect("a case").path()).collect();
    dirs.sort();
    dirs.iter().map(|dir| load_dir(dir).expect("a readable case").objects).collect()
});

/// The objects of some cases together; where two cases name an object the same, the first counts.
pub fn world() -> impl Strategy<Value = Vec<Object>> {
    proptest::collection::vec(0..CASES.len(), 1..6).prop_map(|picked| {
        let mut objects: BTreeMap<ObjectId, Object> = BTreeMap::new();
        for object in picked.iter().flat_map(|&case| &CASES[case]) {
            objects.entry(object.id()).or_insert_with(|| object.clone());
        }
        objects.into_values().collect()
    })
}

fn compiled(index: &Index) -> (String, String) {
    (format!("{:?}", compile(index)), render::text(index, &[]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_objects_does_not_matter(
        (objects, shuffled) in world().prop_flat_map(|objects| (Just(objects.clone()), Just(objects).prop_shuffle())),
        at_once in 1_usize..20,
    ) {
        let mut straight = Index::new(render::node());
        straight.apply(objects.into_iter().map(Change::Set));
        let mut piecemeal = Index::new(render::node());
        for batch in shuffled.chunks(at_once) {
            piecemeal.apply(batch.iter().cloned().map(Change::Set));
        }
        prop_assert_eq!(compiled(&straight), compiled(&piecemeal));
    }

    #[test]
    fn what_was_there_before_does_not_matter(before in world(), after in world(), clear_first: bool) {
        let mut fresh = Index::new(render::node());
        fresh.apply(after.iter().cloned().map(Change::Set));
        let mut changed = Index::new(render::node());
        changed.apply(before.iter().cloned().map(Change::Set));
        let gone = before.iter().filter(|object| !after.iter().any(|o| o.id() == object.id()));
        let removals = gone.map(|object| Change::Remove(object.id()));
        let additions = after.iter().cloned().map(Change::Set);
        if clear_first {
            changed.apply(removals);
            changed.apply(additions);
        } else {
            changed.apply(additions);
            changed.apply(removals);
        }
        prop_assert_eq!(compiled(&fresh), compiled(&changed));
    }
}
