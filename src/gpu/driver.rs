//! The GPUs of the NVIDIA driver, which is opened at run time.

use cudarc::driver::{result, sys};

use crate::base::{Operation, Remedy};

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The N of `cuda:N`.
    pub ordinal: usize,
    /// "NVIDIA H200".
    pub name: String,
    /// Bytes on the card.
    pub memory: usize,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
}

/// The state of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// No driver library on the loader's path.
    Absent,
    /// The library is there and refuses: the code and name of its error.
    Failed(String),
    /// The newest CUDA version the driver serves (12080 is 12.8), and the GPUs.
    Ready {
        /// 1000·major + 10·minor.
        version: i32,
        /// By ordinal.
        gpus: Vec<Gpu>,
    },
}

/// Queries the driver. Never panics, also where there is none.
pub fn probe() -> Driver {
    // SAFETY: looks for a library by name and loads it; no function of it is called.
    if !unsafe { sys::is_culib_present() } {
        return Driver::Absent;
    }
    ask().unwrap_or_else(|e| Driver::Failed(format!("{e:?}")))
}

/// An executable of the kernels for the host, which then stands in for two GPUs. Tests set it.
pub const TWIN: &str = "INCISE_TWIN";

/// `off` gives each array memory of its own, so that a sanitizer sees what runs over its end.
pub const POOL: &str = "INCISE_POOL";

/// `1` compiles kernels from PTX, as future cards will; the driver itself reads it, too.
pub const FORCE_PTX: &str = "CUDA_FORCE_PTX_JIT";

/// `1` waits for the card after each launch, so that an error names the kernel that made it.
pub const SYNC: &str = "INCISE_SYNC";

/// The CUDA version of the oldest driver that is served (525): machine code of CUDA 12.8 loads from
/// there on. PTX, which cards of other kinds than the images' need, loads from 570 (12.8) on.
pub const OLDEST: i32 = 12_000;

/// Every function of the driver that is called, and the CUDA version that brought it. Each is
/// looked for before the first call: one that is missing would be a panic then.
pub const SYMBOLS: [(&str, i32); 40] = [
    ("cuCtxSetCurrent", 4000),
    ("cuDeviceGet", 2000),
    ("cuDeviceGetAttribute", 2000),
    ("cuDeviceGetCount", 2000),
    ("cuDeviceGetName", 2000),
    ("cuDeviceGetUuid", 9020),
    ("cuDevicePrimaryCtxRelease_v2", 11_000),
    ("cuDevicePrimaryCtxRetain", 7000),
    ("cuDeviceTotalMem_v2", 3020),
    ("cuDriverGetVersion", 2020),
    ("cuEventCreate", 2000),
    ("cuEventDestroy_v2", 4000),
    ("cuEventElapsedTime", 2000),
    ("cuEventRecord", 2000),
    ("cuEventSynchronize", 2000),
    ("cuGetErrorString", 6000),
    ("cuGraphDestroy", 10_000),
    ("cuGraphExecDestroy", 10_000),
    ("cuGraphInstantiateWithFlags", 11_040),
    ("cuGraphLaunch", 10_000),
    ("cuInit", 2000),
    ("cuLaunchKernel", 4000),
    ("cuMemAlloc_v2", 3020),
    ("cuMemFreeHost", 2000),
    ("cuMemFree_v2", 3020),
    ("cuMemGetInfo_v2", 3020),
    ("cuMemHostAlloc", 2020),
    ("cuMemcpyDtoDAsync_v2", 3020),
    ("cuMemcpyDtoHAsync_v2", 3020),
    ("cuMemcpyHtoDAsync_v2", 3020),
    ("cuMemsetD8Async", 3020),
    ("cuModuleGetFunction", 2000),
    ("cuModuleLoadData", 2000),
    ("cuModuleUnload", 2000),
    ("cuStreamBeginCapture_v2", 10_010),
    ("cuStreamCreate", 2000),
    ("cuStreamDestroy_v2", 4000),
    ("cuStreamEndCapture", 10_000),
    ("cuStreamSynchronize", 2000),
    ("cuStreamWaitEvent", 3020),
];

impl Gpu {
    /// `cuda:0 (NVIDIA H200)`.
    pub fn title(&self) -> String {
        format!("cuda:{} ({})", self.ordinal, self.name)
    }
}

/// What helps where a device has failed.
pub(super) fn again_or_cpu() -> Remedy {
    look_or_cpu("see what the machine offers and start again, or compute on the CPU")
}

/// The same in other words.
pub(super) fn look_or_cpu(text: &str) -> Remedy {
    Remedy::from(text).operation(Operation::Doctor).option("device", Some("cpu"))
}

/// The GPUs of a working driver; none otherwise.
pub fn gpus() -> Vec<Gpu> {
    if std::env::var_os(TWIN).is_some() {
        let name = "the host, in place of a GPU".to_owned();
        let gpu =
            |ordinal| Gpu { ordinal, name: name.clone(), memory: 1 << 30, capability: (0, 0) };
        return [0, 1].map(gpu).into();
    }
    match probe() {
        Driver::Ready { gpus, .. } => gpus,
        Driver::Absent | Driver::Failed(_) => Vec::new(),
    }
}

fn ask() -> Result<Driver, result::DriverError> {
    result::init()?;
    let version = version()?;
    let gpus = (0..result::device::get_count()?).map(gpu).collect::<Result<_, _>>()?;
    Ok(Driver::Ready { version, gpus })
}

/// The newest CUDA version that a driver which is there serves.
pub(super) fn version() -> Result<i32, result::DriverError> {
    let mut version = 0;
    // SAFETY: the library is present; `version` outlives the call.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// What stands in the way of a driver which is there, of some version, and what to do about it.
pub(super) fn unfit(version: i32) -> Option<String> {
    // SAFETY: the library is present.
    let library = unsafe { sys::culib() };
    // SAFETY: looked up, and not called.
    let is_there = |name: &str| unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok();
    let lacks = SYMBOLS.iter().find(|(name, _)| !is_there(name));
    let (major, minor) = (version / 1000, version % 1000 / 10);
    let what = match lacks {
        Some((name, _)) => format!(" and has no {name}"),
        None if version < OLDEST => String::new(),
        None => return None,
    };
    Some(format!("the driver serves CUDA {major}.{minor}{what}"))
}

fn gpu(ordinal: i32) -> Result<Gpu, result::DriverError> {
    use sys::CUdevice_attribute as A;
    let device = result::device::get(ordinal)?;
    let name = result::device::get_name(device)?;
    // SAFETY: `device` came from the driver just now.
    let memory = unsafe { result::device::total_mem(device) }?;
    // SAFETY: as above; both attributes exist since CUDA 5.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) };
    let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Gpu { ordinal: ordinal as usize, name, memory, capability: (major, minor) })
}
