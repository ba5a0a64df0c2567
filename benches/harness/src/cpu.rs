//! Name, features and caches of this CPU, for the headers of reports and the sizes of working sets.

use serde::Serialize;

/// The CPU that the program runs on.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// Name that the CPU reports, or else the operating system.
    pub name: String,
    /// CPU features that kernels use or will use.
    pub features: Vec<&'static str>,
    /// Cores available to this process.
    pub cores: usize,
    /// Caches of the first, second and third level.
    pub caches: [CacheSize; 3],
}

/// One level of data caches.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheSize {
    /// Bytes that the CPU reports; 0 if it reports none.
    pub reported: usize,
    /// The reported bytes, clamped to the range of real caches.
    pub clamped: usize,
}

/// Smallest and largest cache per core of each level on the CPUs of the backends (2013 to 2026). Virtual machines
/// report the L3 of a whole socket (480 MiB), or no L3.
const BELIEVABLE: [(usize, usize); 3] = [(16 << 10, 192 << 10), (128 << 10, 4 << 20), (1 << 20, 64 << 20)];

impl Cpu {
    /// Detects the CPU by its own identification and the operating system's.
    pub fn detect() -> Self {
        let reported = arch::caches();
        Self {
            name: arch::name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            features: arch::features(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            caches: core::array::from_fn(|level| {
                let (least, most) = BELIEVABLE[level];
                let reported = reported[level];
                CacheSize { reported, clamped: reported.clamp(least, most) }
            }),
        }
    }
}

/// Lists the features that a detection macro of `std` finds.
macro_rules! detected {
    ($detect:ident: $($name:tt)*) => {{
        let mut found = Vec::new();
        $(if std::arch::$detect!($name) { found.push($name); })*
        found
    }};
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use raw_cpuid::{CacheType, CpuId};

    pub fn name() -> Option<String> {
        Some(CpuId::new().get_processor_brand_string()?.as_str().trim().to_owned())
    }

    pub fn features() -> Vec<&'static str> {
        let mut found = detected! {
            is_x86_feature_detected: "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512dq" "avx512vl"
            "avx512vnni" "avx512bf16" "avx512fp16"
        };
        // `std` has no stable detection of these features yet.
        if let Some(leaf) = CpuId::new().get_extended_feature_info() {
            let amx = [("amx-tile", leaf.has_amx_tile()), ("amx-bf16", leaf.has_amx_bf16())];
            found.extend(amx.iter().chain(&[("amx-int8", leaf.has_amx_int8())]).filter(|f| f.1).map(|f| f.0));
        }
        found
    }

    pub fn caches() -> [usize; 3] {
        let mut bytes = [0; 3];
        for cache in CpuId::new().get_cache_parameters().into_iter().flatten() {
            let level = usize::from(cache.level());
            if cache.cache_type() != CacheType::Instruction && (1..=3).contains(&level) {
                bytes[level - 1] = cache.associativity()
                    * cache.physical_line_partitions()
                    * cache.coherency_line_size()
                    * cache.sets();
            }
        }
        bytes
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use std::fs::read_to_string;

    pub fn name() -> Option<String> {
        let info = read_to_string("/proc/cpuinfo").ok()?;
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Some(name?.1.trim().to_owned())
    }

    pub fn features() -> Vec<&'static str> {
        #[cfg(target_arch = "aarch64")]
        return detected! {
            is_aarch64_feature_detected: "neon" "fp16" "dotprod" "bf16" "i8mm" "sve" "sve2"
        };
        #[cfg(not(target_arch = "aarch64"))]
        Vec::new()
    }

    pub fn caches() -> [usize; 3] {
        let mut bytes = [0; 3];
        for index in 0.. {
            let file = |name: &str| {
                read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"))
            };
            let (Ok(level), Ok(kind), Ok(size)) = (file("level"), file("type"), file("size")) else { break };
            let size = size.trim();
            let (number, unit) = match (size.strip_suffix('K'), size.strip_suffix('M')) {
                (Some(number), _) => (number, 1 << 10),
                (_, Some(number)) => (number, 1 << 20),
                _ => (size, 1),
            };
            if let (Ok(level @ 1..=3), Ok(number)) = (level.trim().parse::<usize>(), number.parse::<usize>())
                && kind.trim() != "Instruction"
            {
                bytes[level - 1] = number * unit;
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_grow_with_their_level() {
        let cpu = Cpu::detect();
        assert!(!cpu.name.is_empty() && cpu.cores > 0);
        let [l1, l2, l3] = cpu.caches.map(|c| c.clamped);
        assert!(l1 < l2 && l2 <= l3, "{l1} {l2} {l3}");
    }
}
