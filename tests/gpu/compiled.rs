//! Compiled kernels on the host: what of their PTX is not known is an error, and said by name.

use crate::support::ptx;

/// A kernel of one statement, which stands on line 12.
fn kernel(statement: &str) -> String {
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\n\
         .visible .entry k(\n\t.param .u64 k_param_0\n)\n{{\n\
         \t.reg .pred \t%p<3>;\n\t.reg .f32 \t%f<3>;\n\t.reg .b32 \t%r<3>;\n\
         \t{statement}\n\tret;\n}}\n"
    )
}

fn unit(statement: &str) -> Result<String, String> {
    ptx::unit("file", "f32", "", &kernel(statement), "file.ptx")
}

#[test]
fn what_is_known_is_a_statement() {
    for (statement, written) in [
        ("add.f32 \t%f1, %f2, 0f3F800000;", "vf1 = add_f32(vf2, 1e0f);"),
        ("@!%p1 mov.b32 \t%f1, %r1;", "if (!vp1) { vf1 = as<f32>(mov_b32(vr1)); }"),
        ("setp.lt.s32 \t%p1, %r1, -7;", "vp1 = setp_lt_s32(vr1, -7);"),
        ("mov.u32 \t%r1, %ctaid.x;", "vr1 = mov_u32(vctaid.x);"),
    ] {
        let unit = unit(statement).unwrap();
        assert!(unit.contains(written), "{statement}: {unit}");
    }
}

#[test]
fn what_is_not_known_is_named() {
    for (statement, what) in [
        ("sad.s32 \t%r1, %r2, %r1;", "sad.s32: not known"),
        ("ld.global.nc.f32 \t%f1, [%r1];", "ld.global.nc.f32: not known"),
        ("ld.const.f32 \t%f1, [%r1];", "ld.const.f32: not known"),
        ("atom.global.add.u32 \t%r1, [%r2], 1;", "atom.global.add.u32: "),
        ("st.shared.v2.f32 \t[%r1], {%f1};", "another number of registers"),
        ("add.f32 \t%f1, %f2, 3;", "add.f32: an integer"),
        ("add.s32 \t%r1, %r2, %p1;", "a register of pred for one of s32"),
        ("mov.u32 \t%r1, %clock;", "mov.u32: no register"),
        ("mov.u32 \t%r1, somewhere;", "mov.u32: no variable"),
        ("ld.param.u64 \t%r1, [k_param_1];", "ld.param.u64: no parameter"),
        (".loc 1 2 3", "not known: .loc 1 2 3"),
    ] {
        let said = unit(statement).unwrap_err();
        assert!(said.starts_with("file.ptx:12: ") && said.contains(what), "{statement}: {said}");
    }
}
