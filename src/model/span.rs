//! Stretches of a model's layers: from a place between two branches to another.

use std::ops::Range;

/// The place before a branch of a layer, where a pass may begin or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// l.
    pub layer: usize,
    /// Which of its branches. Within a parallel layer there is no place but the first.
    pub branch: usize,
}

impl Position {
    /// Before a layer.
    pub fn before(layer: usize) -> Position {
        Position { layer, branch: 0 }
    }
}

/// What a pass runs: whole layers (`0..2`), or from a [`Position`] to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub from: Position,
    /// Where it ends.
    pub to: Position,
}

impl From<Range<usize>> for Span {
    fn from(layers: Range<usize>) -> Span {
        Span { from: Position::before(layers.start), to: Position::before(layers.end) }
    }
}

impl From<Range<Position>> for Span {
    fn from(places: Range<Position>) -> Span {
        Span { from: places.start, to: places.end }
    }
}

impl Span {
    /// The layers of which it runs a branch.
    pub fn layers(self) -> Range<usize> {
        if self.from >= self.to {
            return self.from.layer..self.from.layer;
        }
        self.from.layer..self.to.layer + usize::from(self.to.branch > 0)
    }

    /// The branches that it runs of layer l, which has `all`.
    pub fn branches(self, l: usize, all: usize) -> Range<usize> {
        let from = if l == self.from.layer { self.from.branch } else { 0 };
        from..if l == self.to.layer { self.to.branch } else { all }
    }
}
