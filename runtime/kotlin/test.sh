#!/usr/bin/env bash
# Builds the JNI shim and the Java sources and runs src/test on a desktop JVM:
#
#     test.sh STATIC_LIBRARY BUNDLE [GGUF]
#
# STATIC_LIBRARY is libt2lc_runtime.a of this machine; GGUF is what `t2lc compile` makes of Check's
# description with the same bundle. For Linux; needs a C compiler and a JDK, which JAVA_HOME names or
# which the javac on the path belongs to. Leaves nothing behind.
set -euo pipefail

if [[ $# -lt 2 || $# -gt 3 ]]; then
    echo "usage: $0 STATIC_LIBRARY BUNDLE [GGUF]" >&2
    exit 2
fi
library=$(realpath "$1")
bundle=$(realpath "$2")
expected=${3:+$(realpath "$3")}
cd "$(dirname "$0")"
if [[ -z ${JAVA_HOME:-} ]]; then
    JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
fi

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

"${CC:-cc}" -std=c11 -O2 -Wall -Wextra -Werror -fvisibility=hidden -fPIC -shared \
    -I../include "-I$JAVA_HOME/include" "-I$JAVA_HOME/include/linux" \
    src/main/cpp/t2lc_jni.c "$library" -o "$directory/libt2lc_jni.so" \
    -Wl,-z,max-page-size=16384 -Wl,--exclude-libs,ALL -Wl,--gc-sections \
    -Wl,--no-undefined -lm -lpthread -ldl -lgcc_s

# Only the two functions that a JVM calls are to be seen from outside.
exported=$(nm --dynamic --defined-only "$directory/libt2lc_jni.so" | awk '{print $3}' | sort | xargs)
if [[ $exported != "JNI_OnLoad JNI_OnUnload" ]]; then
    echo "test.sh: the library exports $exported" >&2
    exit 1
fi

# New JDKs warn that Java 8 is old.
"$JAVA_HOME/bin/javac" --release 8 -Xlint:all,-options -Werror -encoding UTF-8 \
    -d "$directory/classes" src/main/java/dev/t2lc/*.java src/test/java/dev/t2lc/*.java

mkdir "$directory/work"
status=0
"$JAVA_HOME/bin/java" -Xcheck:jni -Xmx512m "-Djava.io.tmpdir=$directory/work" \
    "-Djava.library.path=$directory" -cp "$directory/classes" \
    dev.t2lc.Check "$bundle" ${expected:+"$expected"} >"$directory/output" 2>&1 || status=$?
if grep -E '^(WARNING in native method|WARNING: JNI|FATAL ERROR in native)' "$directory/output"; then
    status=1
fi
cat "$directory/output"
exit "$status"
