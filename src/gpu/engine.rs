//! What runs kernels and holds their arrays.

use std::sync::Arc;

use super::cuda::Cuda;
use super::launch::{Argument, Elem, File, Grid, In, InOut, Out, Place};
use super::twin::Twin;
use crate::base::{Error, Result};

/// A device that takes launches. Clones are the same device.
#[derive(Clone)]
pub struct Engine(Arc<Driver>);

enum Driver {
    Cuda(Cuda),
    Twin(Twin),
}

/// Calls a method of whichever driver it is.
macro_rules! driver {
    ($engine:expr, $driver:ident => $call:expr) => {
        match &*$engine.0 {
            Driver::Cuda($driver) => $call,
            Driver::Twin($driver) => $call,
        }
    };
}

/// Elements on a device, freed with the last who holds them.
pub struct Array {
    engine: Engine,
    place: Place,
}

impl Engine {
    /// Kernels on a card.
    pub fn cuda(cuda: Cuda) -> Engine {
        Engine(Arc::new(Driver::Cuda(cuda)))
    }

    /// Kernels on the host.
    pub fn twin(twin: Twin) -> Engine {
        Engine(Arc::new(Driver::Twin(twin)))
    }

    /// Room for `len` elements.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn array(&self, elem: Elem, len: usize) -> Result<Array> {
        let bytes = len * elem.size();
        let at = driver!(self, d => d.allocate(bytes)).ok_or_else(|| {
            Error::refused(
                format!("the device has no {bytes} bytes left"),
                "take fewer facts at once",
            )
        })?;
        Ok(Array { engine: self.clone(), place: Place { at, len, elem } })
    }

    /// An array of the bytes of some elements.
    ///
    /// # Errors
    ///
    /// As [`array`](Engine::array).
    pub fn upload(&self, elem: Elem, bytes: &[u8]) -> Result<Array> {
        let array = self.array(elem, bytes.len() / elem.size())?;
        driver!(self, d => d.write(array.place.at, bytes));
        Ok(array)
    }

    /// Enqueues a kernel of a file.
    ///
    /// # Panics
    ///
    /// Where an argument's elements are of another type than the kernel takes.
    pub fn launch(&self, file: &File, kernel: &str, grid: Grid, arguments: &[Argument]) {
        if !grid.is_empty() {
            grid.check(kernel);
            driver!(self, d => d.launch(file, kernel, grid, arguments));
        }
    }
}

impl Array {
    /// How many elements.
    pub fn len(&self) -> usize {
        self.place.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.place.len == 0
    }

    /// Of which type they are.
    pub fn elem(&self) -> Elem {
        self.place.elem
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        self.place
    }

    /// To be read by a kernel.
    pub fn read(&self) -> In<'_> {
        self.place.into()
    }

    /// To be written by a kernel, all of it.
    pub fn write(&mut self) -> Out<'_> {
        self.place.into()
    }

    /// To be read and written by a kernel.
    pub fn update(&mut self) -> InOut<'_> {
        self.place.into()
    }

    /// The bytes, once all launches before are done.
    pub fn download(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.place.len * self.place.elem.size()];
        driver!(self.engine, d => d.read(self.place.at, &mut bytes));
        bytes
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        driver!(self.engine, d => d.free(self.place.at));
    }
}
