#!/usr/bin/env bash
# Checks a machine with a GPU; README.md in this folder says what it needs, how long it takes, and what comes back.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
usage="usage: bash benchmarks/gpu_check/check.sh [correct] [speed [WORKLOAD ...]] [profile]"

stages="" workloads=()
for word in "$@"; do
    case $word in
        correct | speed | profile) stages="$stages $word " ;;
        -h | --help) echo "$usage" && exit 0 ;;
        *) [[ $stages == *" speed " ]] || { echo "$usage" >&2 && exit 2; } && workloads+=("$word") ;;
    esac
done
[ ${#workloads[@]} -gt 0 ] || workloads=(china64 embed1k embed1k_half noise1k image100M64)

# Whoever lends a machine may give back few files: all there is stands in one archive, renewed as soon as there is more.
back=${OUT:-$(mktemp -d)} out=$(mktemp -d) python=${PYTHON:-python3} site=${TMPDIR:-/tmp}/gpu_check_site wheels=${WHEELS:-.whl} limit=${LIMIT:-580}
here=benchmarks/gpu_check
failed=0
mkdir -p "$back"
say() { echo "[${SECONDS} s] $*"; }
keep() { tar -C "$out" -czf "$back/gpu_check.new" . && mv "$back/gpu_check.new" "$back/gpu_check.tar.gz"; }
ended() { keep && rm -r "$out" && if [ -n "$link" ]; then rm "$link"; fi; }
link=""
trap ended EXIT
trap 'say "STOPPED" && exit 130' INT TERM
fail() { say "FAILED: $*" && failed=1; }
# Whether so many seconds are left for a step.
room() { [ $((SECONDS + $1)) -le "$limit" ] || { fail "no time left for $2" && return 1; }; }

# What the machine lacks may come along as wheels. The checkout needs no installation: where no kernels are installed,
# a link takes the place of what an installation would put there.
[ -d "$wheels" ] && "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" "$wheels"/*.whl
export PYTHONPATH=$PWD:$PWD/benchmarks:$PWD/$here:$site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PATH=$PATH:/usr/local/cuda/bin
# Several processes share the processors: threads that wait must not spin.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} OMP_WAIT_POLICY=passive
if ! "$python" -c "import gpukmeans.kernels" 2>/dev/null; then
    link=gpukmeans/kernels
    ln -sfn ../kernels $link
fi

smoke() {
    {
        nvidia-smi --format=csv \
            --query-gpu=name,driver_version,compute_mode,mig.mode.current,clocks.sm,clocks.max.sm,memory.used
        "$python" -m pip list
    } >"$out/environment.txt" 2>&1
    head -n 2 "$out/environment.txt"
    timeout 90 "$python" examples/fingerprint.py --device cpu >"$out/fingerprint_cpu.txt" 2>&1 &
    if ! timeout 90 "$python" examples/fingerprint.py --device cuda >"$out/fingerprint_cuda.txt" 2>&1; then
        tail -n 5 "$out/fingerprint_cuda.txt"
        say "SMOKE FAILED: no fit ran on a GPU, so nothing else can" && wait
        exit 3
    fi
    wait
    cat "$out/fingerprint_cuda.txt"
    keep
    if diff "$out/fingerprint_cpu.txt" "$out/fingerprint_cuda.txt"; then say "smoke: the CPU's bits"; else fail smoke; fi
}

# All at once: a GPU is shared by processes, and most of the time goes into NumPy's answers and the sanitizer.
correct() {
    local group tool tests=()
    room 150 correct || return
    for group in low_dim "tiled groups" "seeding inputs" "torch batches" tensor "images big"; do
        # shellcheck disable=SC2086  # the groups of one process
        timeout 150 "$python" $here/bits.py $group >"$out/bits_${group// /_}.txt" 2>&1 || touch "$out/failed_bits" &
    done
    for tool in memcheck racecheck; do
        timeout 150 compute-sanitizer --tool $tool --error-exitcode 9 --print-limit 20 \
            "$python" $here/bits.py --rows 3000 --own-allocations sanitizer >"$out/$tool.txt" 2>&1 ||
            touch "$out/failed_$tool" &
    done
    # The contract, but for test_input and test_fuzz, which ask for libraries that such a machine may not have.
    for group in tensor distance certificate fixed_point randomness one_answer sklearn_parity cosine minibatch sparse \
        progress; do
        tests+=("tests/test_$group.py")
    done
    timeout 150 "$python" -m pytest -q --maxfail 40 --device cuda -n 6 --dist worksteal -p device_only \
        -p no:cacheprovider -o filterwarnings=default "${tests[@]}" >"$out/tests.txt" 2>&1 || touch "$out/failed_tests" &
    wait
    echo "cases with NumPy's bits: $(cat "$out"/bits_*.txt | grep -c '^OK')"
    grep -hE '^(FAIL|----)|Error' "$out"/bits_*.txt | cut -c 1-300 | head -n 40
    grep -hE '=====|^FAIL' "$out"/{memcheck,racecheck}.txt | grep -v COMPUTE-SANITIZER | cut -c 1-200 | head -n 30
    tail -n 2 "$out"/{memcheck,racecheck}.txt
    grep -E '^(FAILED|ERROR)|passed|failed' "$out/tests.txt" | cut -c 1-200 | tail -n 30
    for group in bits memcheck racecheck tests; do
        if [ -e "$out/failed_$group" ]; then fail "$group" && rm "$out/failed_$group"; fi
    done
    say correct
}

speed() {
    local name
    for name in "${workloads[@]}"; do
        room 90 "speed $name" || continue
        timeout 90 "$python" benchmarks/gpu.py --workloads "$name" --libraries gpukmeans,flash-kmeans \
            --repeats "${REPEATS:-3}" --json "$out/$name.json" >"$out/$name.md" 2>>"$out/speed_log.txt" ||
            { fail "speed $name" && tail -n 3 "$out/speed_log.txt"; }
        grep -E '^\| |^- ' "$out/$name.md" | grep -vE '^\| (---|workload)'
        keep
    done
    say speed
}

# 90 launches, without locking clocks: it is not known what a borrowed GPU may be told.
profile() {
    room 90 profile || return
    timeout 90 ncu --clock-control none --launch-count 90 \
        --kernel-name 'regex:^(assign_[hlt].*|assign_wgmma|refine|hamerly|byte_doubts|filtered_potentials|accept_least|diffuse)$' \
        --section SpeedOfLight --section Occupancy --section WarpStateStats --section InstructionStats \
        --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis \
        "$python" $here/profiled.py >"$out/ncu.txt" 2>&1 || { fail profile && tail -n 5 "$out/ncu.txt"; }
    grep -E '^ +[a-z_]+ \(|Duration|SM Throughput|Memory Throughput|Executed Ipc Active|Achieved Occ|L2 Hit|L1/TEX Hit' \
        "$out/ncu.txt" | cut -c 1-110 | tail -n 130
    say profile
}

smoke
for stage in correct speed profile; do
    if [[ $stages == *" $stage "* ]]; then $stage && keep; fi
done
echo "everything that was printed, and more: $back/gpu_check.tar.gz"
exit $failed
