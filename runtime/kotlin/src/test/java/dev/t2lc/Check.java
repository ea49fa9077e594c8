// Tests of the Java interface on a desktop JVM; test.sh builds and runs them.
//
//     Check BUNDLE [GGUF]
//
// GGUF is what the command line makes of DESCRIPTION with the same bundle. Ends with 0 and the number
// of checks, or with 1 and the first that failed.

package dev.t2lc;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;

final class Check {
    static final String DESCRIPTION = "summarize legal text";
    // An umlaut, Chinese, and what takes two chars in Java and four bytes in UTF-8.
    private static final String UNICODE = "Übersetze 次の文 \uD83D\uDE80\uD835\uDD4F";
    private static final int THREADS = 8;
    private static final int COMPILES = 20;
    private static final int REOPENS = 200;

    private static int passed;
    private static int failed;

    /** Something that may throw anything. */
    private interface Action {
        void run() throws Exception;
    }

    private final String bundle;
    private final Map<String, byte[]> files = new LinkedHashMap<>();
    private final Path directory;

    private Check(String bundle, Path directory) throws IOException {
        this.bundle = bundle;
        this.directory = directory;
        File[] found = new File(bundle).listFiles();
        if (found == null) {
            throw new IOException(bundle + " is no directory");
        }
        for (File file : found) {
            files.put(file.getName(), Files.readAllBytes(file.toPath()));
        }
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 1 || arguments.length > 2) {
            System.err.println("usage: Check BUNDLE [GGUF]");
            System.exit(2);
        }
        Path directory = Files.createTempDirectory("t2lc");
        Check check = new Check(arguments[0], directory);
        try {
            check.compiler();
            check.adapter(arguments.length > 1 ? Paths.get(arguments[1]) : null);
            check.everyWayToOpen();
            check.options();
            check.unicode();
            check.errors();
            check.closed();
            check.progress();
            check.readers();
            check.writing();
            check.threads();
            check.closingUnderThreads();
            check.forgotten();
            check.reopening();
        } catch (Throwable e) {
            failed++;
            e.printStackTrace(System.out);
        } finally {
            delete(directory.toFile());
        }
        // No thread that still hangs keeps a failed run from ending.
        System.out.println(passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    private void compiler() {
        try (Compiler compiler = open()) {
            is("library version", !Compiler.libraryVersion().isEmpty());
            String manifest = new String(files.get("manifest.json"), StandardCharsets.UTF_8);
            is("manifest", compiler.manifest().equals(manifest));
            equal("bundle", digest(files.get("manifest.json")), compiler.bundleDigest());
            is("backend", compiler.backend().indexOf('/') > 0);
            is("text", compiler.toString().contains(compiler.bundleDigest()));
        }
    }

    private void adapter(Path expected) throws IOException {
        try (Compiler compiler = open(); Adapter adapter = compiler.compile(DESCRIPTION)) {
            byte[] bytes = adapter.bytes();
            is("GGUF", new String(bytes, 0, 4, StandardCharsets.US_ASCII).equals("GGUF"));
            equal("content", digest(bytes), adapter.content());
            is("recipe", adapter.recipe().matches("sha256:[0-9a-f]{64}"));
            is("tokens", adapter.tokens() > 0);
            is("not truncated", !adapter.truncated());
            equal("files", Collections.singleton("adapter.gguf"), adapter.files().keySet());
            is("bytes of the file", Arrays.equals(adapter.files().get("adapter.gguf"), bytes));
            is("text", adapter.toString().contains(adapter.content()));

            Similarity similarity = adapter.similarity();
            int count = similarity.tasks().size();
            is("nearest tasks", count > 0);
            equal("nearest", similarity, compiler.nearest(DESCRIPTION, count));
            equal("one nearest", 1, compiler.nearest(DESCRIPTION, 1).tasks().size());
            equal("none nearest", 0, compiler.nearest(DESCRIPTION, 0).tasks().size());
            Similarity.Task task = similarity.tasks().get(0);
            is("nearest task", !task.id().isEmpty() && task.cosine() <= 1.0001f);

            StringBuilder longer = new StringBuilder();
            for (int i = 0; i < 300; i++) {
                longer.append("summarize ");
            }
            try (Adapter truncated = compiler.compile(longer.toString())) {
                is("truncated", truncated.truncated());
            }

            if (expected == null) {
                System.out.println("not run: comparison with the command line, no file was given");
            } else {
                is("as the command line", Arrays.equals(Files.readAllBytes(expected), bytes));
            }
        }
    }

    private void everyWayToOpen() throws IOException {
        byte[] expected = compileWith(open());
        is("file", same(expected, Compiler.openDirectory(new File(bundle))));
        is("bytes", same(expected, Compiler.openBytes(files)));
        is("reader", same(expected, Compiler.openReader(new MemoryReader())));
        OpenOptions options = new OpenOptions().backend(Backend.EXACT).threads(1);
        is("options", same(expected, Compiler.openDirectory(bundle, options)));

        // All in one file, as in an APK; at odd offsets, because mappings start at whole pages.
        Path whole = directory.resolve("whole");
        List<Long> offsets = new ArrayList<>();
        try (FileOutputStream out = new FileOutputStream(whole.toFile())) {
            for (byte[] content : files.values()) {
                out.write(new byte[] {1, 2, 3});
                offsets.add(out.getChannel().position());
                out.write(content);
            }
        }
        Compiler mapped;
        try (FileInputStream in = new FileInputStream(whole.toFile())) {
            int descriptor = in.getFD().valid() ? descriptor(whole) : -1;
            if (descriptor < 0) {
                System.out.println("not run: ranges of a file, this system has no /proc/self/fd");
                return;
            }
            List<FileRange> ranges = new ArrayList<>();
            for (Map.Entry<String, byte[]> file : files.entrySet()) {
                long offset = offsets.get(ranges.size());
                int size = file.getValue().length;
                ranges.add(new FileRange(file.getKey(), descriptor, offset, size));
            }
            mapped = Compiler.openRanges(ranges);
        }
        is("ranges, the file being closed", same(expected, mapped));
        fails("no range", IllegalArgumentException.class, () -> new FileRange("a", 0, 0, -1));
        List<FileRange> closed = new ArrayList<>();
        for (String name : files.keySet()) {
            closed.add(new FileRange(name, -1, 0, 1));
        }
        refuses("no descriptor", 0, null, () -> Compiler.openRanges(closed));
    }

    private void options() {
        try (Compiler compiler = open()) {
            CompileOptions options = new CompileOptions();
            byte[] standard = bytes(compiler, options);
            byte[] small = bytes(compiler, options.quantization(Quantization.Q4_0));
            is("smaller", small.length < standard.length);
            byte[] weak = bytes(compiler, new CompileOptions().scale(0.5f));
            is("weaker", !Arrays.equals(weak, standard));

            options = new CompileOptions().format(Format.PEFT).quantization(Quantization.BF16);
            try (Adapter peft = compiler.compile(DESCRIPTION, options)) {
                List<String> names = new ArrayList<>(peft.files().keySet());
                equal(
                        "PEFT",
                        Arrays.asList("adapter_model.safetensors", "adapter_config.json"),
                        names);
                byte[] weights = peft.files().get(names.get(0));
                byte[] config = peft.files().get(names.get(1));
                byte[] both = Arrays.copyOf(weights, weights.length + config.length);
                System.arraycopy(config, 0, both, weights.length, config.length);
                equal("content of PEFT", digest(both), peft.content());
                fails("bytes of PEFT", IllegalStateException.class, peft::bytes);
            }
        }
    }

    private void unicode() {
        try (Compiler compiler = open(); Adapter adapter = compiler.compile(UNICODE)) {
            // The description is in the file: as UTF-8, not as JNI's variant of it.
            is("unicode", indexOf(adapter.bytes(), UNICODE.getBytes(StandardCharsets.UTF_8)) > 0);
            String half = DESCRIPTION + UNICODE.charAt(UNICODE.length() - 1);
            fails("half a pair", IllegalArgumentException.class, () -> compiler.compile(half));
        }
    }

    private void errors() {
        refuses("no bundle", T2lcException.BUNDLE, "bundle.missing",
                () -> Compiler.openDirectory(bundle + "/none"));
        refuses("no files", T2lcException.BUNDLE, "bundle.missing",
                () -> Compiler.openBytes(Collections.<String, byte[]>emptyMap()));
        Map<String, byte[]> damaged = new LinkedHashMap<>(files);
        byte[] graph = damaged.get("hypernet.onnx").clone();
        graph[graph.length / 2] ^= 1;
        damaged.put("hypernet.onnx", graph);
        refuses("damaged", T2lcException.BUNDLE, "bundle.digest",
                () -> Compiler.openBytes(damaged));
        refuses("provider", 0, null, () -> Compiler.openDirectory(
                bundle, new OpenOptions().backend(Backend.ORT).provider("none such")));
        fails("threads", IllegalArgumentException.class, () -> new OpenOptions().threads(-1));
        fails("null backend", NullPointerException.class, () -> new OpenOptions().backend(null));
        fails("null path", NullPointerException.class,
                () -> Compiler.openDirectory((String) null));

        try (Compiler compiler = open()) {
            byte[] expected = bytes(compiler, new CompileOptions());
            refuses("empty", T2lcException.DESCRIPTION, "describe.empty",
                    () -> compiler.compile(""));
            refuses("blank", T2lcException.DESCRIPTION, "describe.empty",
                    () -> compiler.nearest(" \n", 3));
            refuses("scale", 0, "options.scale",
                    () -> compiler.compile(DESCRIPTION, new CompileOptions().scale(Float.NaN)));
            CompileOptions peft = new CompileOptions().format(Format.PEFT);
            peft.quantization(Quantization.Q4_0);
            refuses("quantization of PEFT", 0, "write.quantization",
                    () -> compiler.compile(DESCRIPTION, peft));
            fails("null", NullPointerException.class, () -> compiler.compile(null));
            fails("count", IllegalArgumentException.class,
                    () -> compiler.nearest(DESCRIPTION, -1));
            is("as before", Arrays.equals(bytes(compiler, new CompileOptions()), expected));
        }
    }

    private void closed() {
        Compiler compiler = open();
        Adapter adapter = compiler.compile(DESCRIPTION);
        compiler.close();
        compiler.close();
        fails("closed", IllegalStateException.class, () -> compiler.compile(DESCRIPTION));
        fails("closed", IllegalStateException.class, () -> compiler.nearest(DESCRIPTION, 1));
        is("manifest of a closed one", !compiler.manifest().isEmpty());
        equal("an adapter outlives it", digest(adapter.bytes()), adapter.content());
        adapter.close();
        adapter.close();
        fails("closed adapter", IllegalStateException.class, adapter::bytes);
        fails("closed adapter", IllegalStateException.class, adapter::files);
        String path = directory.resolve("closed").toString();
        fails("closed adapter", IllegalStateException.class, () -> adapter.write(path));
        is("recipe of a closed one", !adapter.recipe().isEmpty());

        // What a call sees whose handle was freed just before it.
        refuses("freed handle", T2lcException.ARGUMENT, null,
                () -> T2lcNative.compile(this, 12345678, new byte[] {'a'}, 0, 0, 1, null));
        is("no handle", T2lcNative.compilerManifest(12345678) == null);
    }

    private void progress() {
        try (Compiler compiler = open()) {
            byte[] expected = bytes(compiler, new CompileOptions());
            EnumSet<Stage> stages = EnumSet.noneOf(Stage.class);
            AtomicInteger wrong = new AtomicInteger();
            Thread thread = Thread.currentThread();
            byte[] watched = bytes(compiler, new CompileOptions().progress((stage, done, total) -> {
                stages.add(stage);
                boolean right = done >= 0 && done <= total && Thread.currentThread() == thread;
                wrong.addAndGet(right ? 0 : 1);
                return true;
            }));
            is("the same when watched", Arrays.equals(watched, expected));
            equal("stages", EnumSet.allOf(Stage.class), stages);
            equal("progress", 0, wrong.get());

            for (Stage last : Stage.values()) {
                CompileOptions options = new CompileOptions();
                options.progress((stage, done, total) -> stage != last);
                refuses("cancelled in " + last, T2lcException.CANCELLED, null,
                        () -> compiler.compile(DESCRIPTION, options));
            }
            RuntimeException thrown = new RuntimeException("of the callback");
            CompileOptions throwing = new CompileOptions().progress((stage, done, total) -> {
                throw thrown;
            });
            try {
                compiler.compile(DESCRIPTION, throwing);
                is("what a callback throws", false);
            } catch (RuntimeException e) {
                is("what a callback throws", e == thrown);
            }
            Runnable close = compiler::close;
            CompileOptions closing = new CompileOptions().progress((stage, done, total) -> {
                close.run();
                return true;
            });
            fails("closed in its callback", IllegalStateException.class,
                    () -> compiler.compile(DESCRIPTION, closing));
            is("as before", Arrays.equals(bytes(compiler, new CompileOptions()), expected));
        }
    }

    private void readers() {
        IOException thrown = new IOException("of the reader");
        for (boolean early : new boolean[] {true, false}) {
            BundleReader reader = new BundleReader() {
                @Override
                public long size(String name) throws IOException {
                    if (early) {
                        throw thrown;
                    }
                    return files.containsKey(name) ? files.get(name).length : -1;
                }

                @Override
                public void read(String name, long offset, byte[] into, int length)
                        throws IOException {
                    throw thrown;
                }
            };
            try {
                Compiler.openReader(reader);
                is("what a reader throws", false);
            } catch (IOException e) {
                is("what a reader throws", e == thrown);
            }
        }
        BundleReader empty = new BundleReader() {
            @Override
            public long size(String name) {
                return -1;
            }

            @Override
            public void read(String name, long offset, byte[] into, int length) {
                throw new AssertionError(name);
            }
        };
        refuses("nothing to read", T2lcException.BUNDLE, "bundle.missing",
                () -> Compiler.openReader(empty));
    }

    private void writing() throws IOException {
        try (Compiler compiler = open(); Adapter adapter = compiler.compile(DESCRIPTION)) {
            // A name in ASCII: how a JVM reads others depends on the locale.
            Path path = directory.resolve("adapter.gguf");
            adapter.write(path.toString());
            is("written", Arrays.equals(Files.readAllBytes(path), adapter.bytes()));
            refuses("there already", T2lcException.OUTPUT, "output.exists",
                    () -> adapter.write(path.toString()));
            adapter.write(path.toFile(), true);
            is("overwritten", Arrays.equals(Files.readAllBytes(path), adapter.bytes()));
            refuses("no folder", T2lcException.OUTPUT, null,
                    () -> adapter.write(directory.resolve("none/adapter.gguf").toString()));

            CompileOptions options = new CompileOptions().format(Format.PEFT);
            try (Adapter peft = compiler.compile(DESCRIPTION, options)) {
                Path folder = directory.resolve("peft");
                peft.write(folder.toString(), false);
                for (Map.Entry<String, byte[]> file : peft.files().entrySet()) {
                    byte[] written = Files.readAllBytes(folder.resolve(file.getKey()));
                    is("written " + file.getKey(), Arrays.equals(written, file.getValue()));
                }
            }
        }
    }

    private void threads() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        try (Compiler compiler = open()) {
            byte[][] expected = {
                bytes(compiler, new CompileOptions()), compileWith(open(), UNICODE),
            };
            List<Future<Integer>> running = new ArrayList<>();
            for (int thread = 0; thread < THREADS; thread++) {
                int first = thread;
                running.add(pool.submit(() -> {
                    int same = 0;
                    for (int i = 0; i < COMPILES; i++) {
                        int which = (first + i) % 2;
                        String text = which == 0 ? DESCRIPTION : UNICODE;
                        try (Adapter adapter = compiler.compile(text)) {
                            same += Arrays.equals(adapter.bytes(), expected[which]) ? 1 : 0;
                        }
                    }
                    return same;
                }));
            }
            for (Future<Integer> one : running) {
                equal("compiles of a thread", COMPILES, one.get());
            }
        } finally {
            pool.shutdownNow();
        }
    }

    /** A compiler and an adapter that are closed while others use them. */
    private void closingUnderThreads() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        try {
            Compiler compiler = open();
            Adapter adapter = compiler.compile(DESCRIPTION);
            byte[] expected = adapter.bytes();
            CountDownLatch ready = new CountDownLatch(THREADS);
            List<Future<Boolean>> running = new ArrayList<>();
            for (int thread = 0; thread < THREADS; thread++) {
                boolean compiles = thread % 2 == 0;
                Callable<Boolean> use = () -> {
                    for (boolean first = true;; first = false) {
                        byte[] bytes = compiles
                                ? bytes(compiler, new CompileOptions()) : adapter.bytes();
                        if (!Arrays.equals(bytes, expected)) {
                            return false;
                        }
                        if (first) {
                            ready.countDown();
                        }
                    }
                };
                running.add(pool.submit(() -> {
                    try {
                        return use.call();
                    } catch (IllegalStateException e) {
                        return true;
                    } catch (T2lcException e) {
                        return e.status() == T2lcException.ARGUMENT;
                    }
                }));
            }
            ready.await();
            adapter.close();
            compiler.close();
            for (Future<Boolean> one : running) {
                is("closed under a thread", one.get());
            }
        } finally {
            pool.shutdownNow();
        }
    }

    /** Objects that were never closed are freed once they have been collected. */
    private void forgotten() throws InterruptedException {
        int before = Handle.count();
        forget();
        for (int i = 0; i < 100 && Handle.count() > before; i++) {
            System.gc();
            Thread.sleep(20);
            Handle.drain();
        }
        equal("forgotten", before, Handle.count());
    }

    private void forget() {
        Compiler compiler = open();
        compiler.compile(DESCRIPTION);
        is("open", Handle.count() >= 2);
    }

    private void reopening() throws IOException {
        // Whatever is allocated once has been by now.
        long before = resident();
        for (int i = 0; i < REOPENS; i++) {
            open().close();
        }
        long grown = resident() - before;
        is("memory after reopening: " + grown + " KiB more", grown < 64 << 10);
        equal("open", 0, Handle.count());
    }

    // ---- helpers ----

    private Compiler open() {
        return Compiler.openDirectory(bundle);
    }

    private static byte[] bytes(Compiler compiler, CompileOptions options) {
        try (Adapter adapter = compiler.compile(DESCRIPTION, options)) {
            return adapter.bytes();
        }
    }

    private static byte[] compileWith(Compiler opened) {
        return compileWith(opened, DESCRIPTION);
    }

    private static byte[] compileWith(Compiler opened, String description) {
        try (Compiler compiler = opened; Adapter adapter = compiler.compile(description)) {
            return adapter.bytes();
        }
    }

    private static boolean same(byte[] expected, Compiler opened) {
        return Arrays.equals(expected, compileWith(opened));
    }

    /** Number of the descriptor that this process has a file open with, -1 if it cannot be found. */
    private static int descriptor(Path file) throws IOException {
        File[] open = new File("/proc/self/fd").listFiles();
        if (open == null) {
            return -1;
        }
        for (File link : open) {
            // The one that listed the folder is gone.
            if (Files.isSymbolicLink(link.toPath())
                    && Files.readSymbolicLink(link.toPath()).equals(file.toRealPath())) {
                return Integer.parseInt(link.getName());
            }
        }
        return -1;
    }

    /** Resident memory of this process in KiB, 0 where it cannot be told. */
    private static long resident() throws IOException {
        File status = new File("/proc/self/status");
        if (status.exists()) {
            try (RandomAccessFile lines = new RandomAccessFile(status, "r")) {
                for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                    if (line.startsWith("VmRSS:")) {
                        return Long.parseLong(line.replaceAll("[^0-9]", ""));
                    }
                }
            }
        }
        System.out.println("not run: memory, this system has no /proc/self/status");
        return 0;
    }

    private static int indexOf(byte[] bytes, byte[] part) {
        for (int i = 0; i + part.length <= bytes.length; i++) {
            if (Arrays.equals(Arrays.copyOfRange(bytes, i, i + part.length), part)) {
                return i;
            }
        }
        return -1;
    }

    private static String digest(byte[] bytes) {
        try {
            StringBuilder digest = new StringBuilder("sha256:");
            for (byte b : MessageDigest.getInstance("SHA-256").digest(bytes)) {
                digest.append(String.format("%02x", b));
            }
            return digest.toString();
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new AssertionError(e);
        }
    }

    private static void delete(File file) {
        File[] inside = file.listFiles();
        for (File one : inside == null ? new File[0] : inside) {
            delete(one);
        }
        if (!file.delete()) {
            System.out.println("left behind: " + file);
        }
    }

    private static void is(String what, boolean so) {
        if (!so) {
            throw new AssertionError("not so: " + what);
        }
        passed++;
    }

    private static void equal(String what, Object expected, Object got) {
        if (!expected.equals(got)) {
            throw new AssertionError(what + ": " + got + ", expected " + expected);
        }
        passed++;
    }

    /** The action throws an exception of a class. */
    private static void fails(String what, Class<? extends Exception> expected, Action action) {
        try {
            action.run();
        } catch (Exception e) {
            if (expected.isInstance(e)) {
                passed++;
                return;
            }
            throw new AssertionError(what + ": " + e, e);
        }
        throw new AssertionError(what + ": no exception");
    }

    /** The action throws the library's exception; 0 for any status and null for any code. */
    private static void refuses(String what, int status, String code, Action action) {
        try {
            action.run();
        } catch (T2lcException e) {
            boolean right = (status == 0 || e.status() == status)
                    && (code == null || e.code().equals(code))
                    && e.status() != T2lcException.INTERNAL
                    && e.code().indexOf('.') > 0
                    && !e.getMessage().isEmpty();
            if (right) {
                passed++;
                return;
            }
            throw new AssertionError(what + ": status " + e.status() + ", " + e, e);
        } catch (Exception e) {
            throw new AssertionError(what + ": " + e, e);
        }
        throw new AssertionError(what + ": no exception");
    }

    /** The bundle's files through the callbacks. */
    private final class MemoryReader implements BundleReader {
        @Override
        public long size(String name) {
            byte[] content = files.get(name);
            return content == null ? -1 : content.length;
        }

        @Override
        public void read(String name, long offset, byte[] into, int length) {
            System.arraycopy(files.get(name), (int) offset, into, 0, length);
        }
    }
}
