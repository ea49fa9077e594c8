//! Names beside dots, where there is room.
//!
//! In: a frame and all dots in it. Out: for one dot after the other, where its name goes: to the
//! right, to the left, above or below, whatever is first to lie within the frame and to cover
//! neither a dot nor a name; nowhere if nothing does.

use super::figure::{Frame, LINE_PIXELS, MARK_PIXELS, Point, width_pixels};

/// From the middle of a dot to its name, in pixels.
const GAP_PIXELS: i32 = MARK_PIXELS + 3;
/// Half of the height of a name.
const HALF_PIXELS: i32 = LINE_PIXELS / 3;

/// A rectangle, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
}

impl Block {
    fn covers(&self, other: &Self) -> bool {
        let beside = self.right <= other.left || other.right <= self.left;
        let apart = self.bottom <= other.top || other.bottom <= self.top;
        !beside && !apart
    }

    fn is_within(&self, frame: &Frame) -> bool {
        let across = self.left >= frame.left && self.right <= frame.right;
        across && self.top >= frame.top && self.bottom <= frame.bottom
    }
}

/// What is taken of a frame.
#[derive(Debug)]
pub(super) struct Labels<'a> {
    frame: &'a Frame,
    taken: Vec<Block>,
}

impl<'a> Labels<'a> {
    /// A frame with dots and no names yet.
    pub(super) fn new(frame: &'a Frame, dots: impl Iterator<Item = Point>) -> Self {
        let block = |(x, y): Point| Block {
            left: x - MARK_PIXELS,
            top: y - MARK_PIXELS,
            right: x + MARK_PIXELS,
            bottom: y + MARK_PIXELS,
        };
        Self { frame, taken: dots.map(block).collect() }
    }

    /// Where the left end of a dot's name is, in the middle of its height; the place is taken then.
    pub(super) fn place(&mut self, (x, y): Point, name: &str) -> Option<Point> {
        let width = width_pixels(name);
        let (above, below) = (y - GAP_PIXELS - HALF_PIXELS, y + GAP_PIXELS + HALF_PIXELS);
        let centered = x - width / 2;
        let places = [
            (x + GAP_PIXELS, y),
            (x - GAP_PIXELS - width, y),
            (centered, above),
            (centered, below),
        ];
        places.into_iter().find(|&(left, middle)| {
            let (top, bottom) = (middle - HALF_PIXELS, middle + HALF_PIXELS);
            let block = Block { left, top, right: left + width, bottom };
            let free =
                block.is_within(self.frame) && !self.taken.iter().any(|other| other.covers(&block));
            if free {
                self.taken.push(block);
            }
            free
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Labels};

    #[test]
    fn names_go_where_there_is_room() {
        let (left, top, right, bottom) = (0, 0, 200, 100);
        let frame = Frame { left, top, right, bottom, across: 0.0..1.0, up: 0.0..1.0 };
        let dots = [(50, 50), (190, 50), (100, 90), (100, 90), (100, 90)];
        let mut labels = Labels::new(&frame, dots.into_iter());
        // Ten letters are 70 pixels wide.
        let name = "ten chars!";
        assert_eq!(labels.place(dots[0], name), Some((58, 50)));
        // Neither to the right, beyond the frame, nor to the left, over the first name.
        assert_eq!(labels.place(dots[1], name), None);
        assert_eq!(labels.place(dots[1], "short"), Some((147, 50)));
        assert_eq!(labels.place(dots[2], name), Some((108, 90)));
        assert_eq!(labels.place(dots[3], name), Some((22, 90)));
        assert_eq!(labels.place(dots[4], name), Some((65, 75)));
        assert_eq!(labels.place(dots[4], name), None);
    }
}
