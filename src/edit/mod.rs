//! Floor 6: from facts to changes, and from changes to weights.

pub mod apply;
