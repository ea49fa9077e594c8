// An opened bundle.

package dev.t2lc;

import java.io.File;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * An opened bundle, ready to compile. Any thread may use one, several at once.
 *
 * <p>Close it: a bundle is tens of megabytes that the garbage collector does not see. One that was
 * forgotten is freed after it has been collected, when the next is opened or a description compiled.
 *
 * <p>Methods of a closed one throw IllegalStateException; a call that another thread closes under may
 * throw a {@link T2lcException} with {@link T2lcException#ARGUMENT} instead, or end as if it had not.
 */
public final class Compiler implements AutoCloseable {
    private final Handle handle;
    private final String manifest;
    private final String bundleDigest;
    private final String backend;
    // Threads that compile and may get into a progress callback.
    private final Set<Thread> reporting = ConcurrentHashMap.newKeySet();

    /** Takes a handle. */
    private Compiler(long compiler) {
        handle = new Handle(this, "compiler", compiler, T2lcNative::freeCompiler);
        manifest = T2lcNative.text(T2lcNative.compilerManifest(compiler));
        bundleDigest = T2lcNative.text(T2lcNative.compilerBundleDigest(compiler));
        backend = T2lcNative.text(T2lcNative.compilerBackend(compiler));
    }

    /** Opens a {@code NAME.t2lc} directory; its files are mapped into memory, not read. */
    public static Compiler openDirectory(String path) {
        return openDirectory(path, new OpenOptions());
    }

    /** Opens a {@code NAME.t2lc} directory; its files are mapped into memory, not read. */
    public static Compiler openDirectory(String path, OpenOptions options) {
        Handle.drain();
        byte[] utf8 = T2lcNative.utf8("path", path);
        return new Compiler(
                T2lcNative.openDirectory(
                        utf8, options.backend.number, options.threads, options.provider));
    }

    // Not java.nio.file.Path, which needs Android 8.
    /** Opens a {@code NAME.t2lc} directory; its files are mapped into memory, not read. */
    public static Compiler openDirectory(File path) {
        return openDirectory(path.getPath());
    }

    /** Opens a {@code NAME.t2lc} directory; its files are mapped into memory, not read. */
    public static Compiler openDirectory(File path, OpenOptions options) {
        return openDirectory(path.getPath(), options);
    }

    /** Opens the files of a bundle by name; the bytes are copied. */
    public static Compiler openBytes(Map<String, byte[]> files) {
        return openBytes(files, new OpenOptions());
    }

    /** Opens the files of a bundle by name; the bytes are copied. */
    public static Compiler openBytes(Map<String, byte[]> files, OpenOptions options) {
        Handle.drain();
        int count = files.size();
        byte[][] names = new byte[count][];
        byte[][] contents = new byte[count][];
        int i = 0;
        for (Map.Entry<String, byte[]> file : files.entrySet()) {
            names[i] = T2lcNative.utf8("name", file.getKey());
            contents[i] = Objects.requireNonNull(file.getValue(), file.getKey());
            i++;
        }
        return new Compiler(
                T2lcNative.openBytes(
                        names, contents, options.backend.number, options.threads, options.provider));
    }

    /** Opens ranges of open files, which are mapped; the files may be closed afterwards. */
    public static Compiler openRanges(List<FileRange> files) {
        return openRanges(files, new OpenOptions());
    }

    /** Opens ranges of open files, which are mapped; the files may be closed afterwards. */
    public static Compiler openRanges(List<FileRange> files, OpenOptions options) {
        Handle.drain();
        int count = files.size();
        byte[][] names = new byte[count][];
        int[] descriptors = new int[count];
        long[] offsets = new long[count];
        long[] sizes = new long[count];
        int i = 0;
        for (FileRange file : files) {
            names[i] = file.name;
            descriptors[i] = file.descriptor;
            offsets[i] = file.offset;
            sizes[i] = file.size;
            i++;
        }
        return new Compiler(
                T2lcNative.openRanges(
                        names,
                        descriptors,
                        offsets,
                        sizes,
                        options.backend.number,
                        options.threads,
                        options.provider));
    }

    /** Opens files through an app's own reader; what that throws comes out of this. */
    public static Compiler openReader(BundleReader reader) throws IOException {
        return openReader(reader, new OpenOptions());
    }

    /** Opens files through an app's own reader; what that throws comes out of this. */
    public static Compiler openReader(BundleReader reader, OpenOptions options)
            throws IOException {
        Handle.drain();
        Objects.requireNonNull(reader, "reader");
        return new Compiler(
                T2lcNative.openReader(
                        reader, options.backend.number, options.threads, options.provider));
    }

    /** Compiles one description on this thread, which waits for it. */
    public Adapter compile(String description) {
        return compile(description, new CompileOptions());
    }

    /** Compiles one description on this thread, which waits for it. */
    public Adapter compile(String description, CompileOptions options) {
        Handle.drain();
        byte[] utf8 = T2lcNative.utf8("description", description);
        Thread thread = Thread.currentThread();
        // Not of a compile inside a callback of another one, which goes on reporting.
        boolean entered = options.progress != null && reporting.add(thread);
        try {
            return new Adapter(
                    T2lcNative.compile(
                            this,
                            handle.value(),
                            utf8,
                            options.format.number,
                            options.quantization.number,
                            options.scale,
                            options.progress));
        } finally {
            if (entered) {
                reporting.remove(thread);
            }
        }
    }

    /** The count training tasks that a description is nearest to, without compiling it. */
    public Similarity nearest(String description, int count) {
        if (count < 0) {
            throw new IllegalArgumentException("count is " + count + ", expected 0 or more");
        }
        byte[] utf8 = T2lcNative.utf8("description", description);
        return Similarity.take(T2lcNative.nearest(this, handle.value(), utf8, count));
    }

    /** {@code manifest.json} of the bundle: base model, encoder, licences. */
    public String manifest() {
        return manifest;
    }

    /** Digest of the bundle, {@code sha256:…}. */
    public String bundleDigest() {
        return bundleDigest;
    }

    /** Class of arithmetic, for example {@code exact/1}. */
    public String backend() {
        return backend;
    }

    /** Version of the native library, for example {@code 0.1.0}. */
    public static String libraryVersion() {
        return T2lcNative.text(T2lcNative.version());
    }

    /** Frees the bundle; calls that other threads are in end first. Twice is once. */
    @Override
    public void close() {
        if (reporting.contains(Thread.currentThread())) {
            // The library would wait for the very call that waits here.
            throw new IllegalStateException("a progress callback cannot close its compiler");
        }
        handle.close();
    }

    @Override
    public String toString() {
        return "Compiler " + bundleDigest + " " + backend;
    }
}
