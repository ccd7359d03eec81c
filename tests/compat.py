"""Runs the checks of recorded checkpoints (`../shared/compat/check.py`) and accepts four known differences, no others.

Two are of clm_4, a model without prefix. Their recorded values have padding among the latents, which the published
format does not mask in its self-attention: padding there changes what real tokens predict. Ours changes nothing, and
the same script demands that of the same model ("padding invariance fwd_prefix0_pad", "equals solo"): no model can do
both.
The recorded cached values even depend on how many tokens came in one call: they differ by 7.5 from the uncached ones
(`max_abs_diff_to_uncached` in the recording).

Two are encodings of MIDI files. Their recordings lack the notes that begin after the last pedal-up (and one a velocity
token, of the softest velocity). Ours lose no note, as the same format demands; without those notes, encodings are equal
(tests/data/audio/test_midi_processor.py).

    python tests/compat.py CHECK_SCRIPT
"""

import subprocess
import sys

KNOWN = {
    "clm_4: LitCausalLanguageModel.step",
    "clm_4: cached forward cache_incremental_pad",
    "sam: midi_sustain",
    "sam: midi_two_instruments",
}


def failures(output: str) -> set[str]:
    """Names of the checks that failed: `FAIL <fixture>: <check>: <error class>: <message>`."""
    lines = [line.removeprefix("FAIL ") for line in output.splitlines() if line.startswith("FAIL ")]
    return {": ".join(line.split(": ")[:2]) for line in lines}


def main() -> None:
    run = subprocess.run([sys.executable, sys.argv[1]], stdout=subprocess.PIPE, text=True)
    print(run.stdout, end="")
    failed = failures(run.stdout)
    if failed == KNOWN and run.stdout.rstrip().endswith(f" {len(KNOWN)} failed"):  # so it ran to its end
        print(f"The {len(KNOWN)} failures are the known ones, see tests/compat.py")
    elif run.returncode or failed:
        sys.exit(f"not expected: {sorted(failed - KNOWN)}; expected to fail, but passed: {sorted(KNOWN - failed)}")
    else:
        sys.exit("all passed: there are no known differences any more, remove tests/compat.py")


if __name__ == "__main__":
    main()
