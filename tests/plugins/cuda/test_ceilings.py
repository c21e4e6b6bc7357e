"""What the report says of compiled loops: which instructions a full tile passes, and what bounds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.plugins.cuda.report import plugin_library, tool
from tests.plugins.native import needs

# An outer loop (0x10 to 0xc0) with a branch for misaligned rows, which copies no other way, and an inner loop of
# products; the last branch is the trap behind every kernel.
LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/               @P0 BRA 0x50 ;
        /*0020*/                   LDG.E.U16 R4, [R2] ;
        /*0030*/                   STS.U16 [R6], R4 ;
        /*0040*/                   BRA 0x60 ;
        /*0050*/                   LDGSTS.E.BYPASS.128 [R6], [R2.64] ;
        /*0060*/                   BAR.SYNC 0x0 ;
        /*0070*/                   LDSM.16.MT88.4 R8, [R7] ;
        /*0080*/                   FMUL R4, R4, R5 ;
        /*0090*/              @!PT LDS RZ, [RZ] ;
        /*00a0*/                   HMMA.16816.F32 R12, R8, R4, R12 ;
        /*00b0*/               @P1 BRA 0x70 ;
        /*00c0*/              @!P2 BRA 0x10 ;
        /*00d0*/                   EXIT ;
        /*00e0*/                   BRA 0xe0;
"""


def test_a_pass_is_the_path_of_a_full_tile() -> None:
    code = tool("machine_code")
    instructions = code.parse(LISTING.splitlines())
    assert len(instructions) == 15
    assert [(instructions[a].address, instructions[b].address) for a, b in code.loops(instructions)] == [
        (0x10, 0xC0),
        (0x70, 0xB0),
    ]
    # 4 matrices of 128 bytes; the load that never happens takes no cycle of shared memory.
    assert code.hottest(instructions) == code.Pass(instructions=5, floats=1, wavefronts=4, flops=4096)
    # Branch, copy (512 bytes), barrier, three passes of the inner loop, and the branch back.
    assert code.hottest(instructions, trips=3) == code.Pass(
        instructions=19, floats=3, wavefronts=4 + 3 * 4, flops=3 * 4096
    )


def test_a_kernel_without_products_has_no_ceiling() -> None:
    code = tool("machine_code")
    assert code.hottest(code.parse(LISTING.replace("HMMA.16816.F32", "FFMA").splitlines())) is None


def test_a_product_of_an_unknown_shape_is_an_error() -> None:
    code = tool("machine_code")
    with pytest.raises(ValueError, match=r"HMMA\.32832\.F32 is a product of an unknown shape"):
        code.hottest(code.parse(LISTING.replace("16816", "32832").splitlines()))


@pytest.mark.parametrize(
    "changed, unit",
    [
        ({"instructions": 4000}, "issue"),
        ({"floats": 4000, "instructions": 4000}, "fp32"),
        ({"wavefronts": 4000}, "shared"),
        ({}, "tensor"),
    ],
)
def test_the_scarcest_unit_bounds(changed: dict[str, int], unit: str) -> None:
    code, ceilings = tool("machine_code"), tool("ceilings")
    cost = code.Pass(**{"instructions": 4, "floats": 0, "wavefronts": 1, "flops": 2048 * 100} | changed)
    found = ceilings.ceiling(cost, 80, products=2.0)
    assert found.unit == unit
    # An A100's tensor cores make 2,048 flops a cycle, 312 TFLOP/s in all; half are the definition's.
    assert found.flops == pytest.approx(312e12 / 2 * 100 / max(found.cycles.values()))


@needs("c++filt")
def test_products_on_tensor_cores_stay_the_bound_or_near_it() -> None:
    library: Path = plugin_library()
    found = tool("ceilings").ceilings(library)
    if not found:
        pytest.skip("the library has no architecture of the report")
    wide = {key: own for key, own in found.items() if key[0].startswith("taylor_attend") and ",64," in key[0]}
    assert wide
    for (name, sm), own in wide.items():
        peak = tool("fat_binary").ARCHITECTURES[sm].tensor_flops
        assert own.flops >= 0.35 * peak, f"{name} on sm_{sm}: {own}"
