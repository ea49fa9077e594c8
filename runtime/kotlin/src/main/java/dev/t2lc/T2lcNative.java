// The native methods, as t2lc_jni.c registers them, and what it calls back.

package dev.t2lc;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

/**
 * Text goes both ways as UTF-8. {@code owner} is the object that closes the handle, which must not be
 * collected while a call uses it.
 */
final class T2lcNative {
    static {
        System.loadLibrary("t2lc_jni");
    }

    private T2lcNative() {}

    static native byte[] version();

    static native long openDirectory(byte[] path, int backend, int threads, byte[] provider);

    static native long openBytes(
            byte[][] names, byte[][] contents, int backend, int threads, byte[] provider);

    static native long openRanges(
            byte[][] names,
            int[] descriptors,
            long[] offsets,
            long[] sizes,
            int backend,
            int threads,
            byte[] provider);

    // What the reader throws comes out of it.
    static native long openReader(BundleReader reader, int backend, int threads, byte[] provider)
            throws IOException;

    static native void freeCompiler(long compiler);

    static native byte[] compilerManifest(long compiler);

    static native byte[] compilerBundleDigest(long compiler);

    static native byte[] compilerBackend(long compiler);

    static native long compile(
            Object owner,
            long compiler,
            byte[] description,
            int format,
            int quantization,
            float scale,
            Progress progress);

    static native long nearest(Object owner, long compiler, byte[] description, int count);

    static native int similarityCount(long similarity);

    static native byte[] similarityTask(long similarity, int index);

    static native float similarityCosine(long similarity, int index);

    static native boolean similarityFamiliar(long similarity);

    static native void freeSimilarity(long similarity);

    static native int adapterFileCount(long adapter);

    static native byte[] adapterFileName(long adapter, int index);

    static native byte[] adapterFileBytes(Object owner, long adapter, int index);

    static native byte[] adapterRecipe(long adapter);

    static native byte[] adapterContent(long adapter);

    static native long adapterTokens(long adapter);

    static native boolean adapterTruncated(long adapter);

    static native long adapterSimilarity(long adapter);

    static native void adapterWrite(Object owner, long adapter, byte[] path, boolean overwrite);

    static native void freeAdapter(long adapter);

    // Called by t2lc_jni.c.
    static boolean progress(Progress progress, int number, long done, long total) {
        Stage stage = Stage.of(number);
        // A stage that a newer library has is not reported.
        return stage == null || progress.report(stage, done, total);
    }

    // Called by t2lc_jni.c.
    static long readerSize(BundleReader reader, byte[] name) throws IOException {
        return reader.size(text(name));
    }

    // Called by t2lc_jni.c.
    static void readerRead(BundleReader reader, byte[] name, long offset, byte[] into, int length)
            throws IOException {
        reader.read(text(name), offset, into, length);
    }

    /** Text that came out of the library. */
    static String text(byte[] utf8) {
        return utf8 == null ? "" : new String(utf8, StandardCharsets.UTF_8);
    }

    /** Text for the library; not getBytes, which would put a question mark for half a pair. */
    static byte[] utf8(String what, String text) {
        if (text == null) {
            throw new NullPointerException(what);
        }
        try {
            ByteBuffer encoded = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(text));
            byte[] bytes = new byte[encoded.remaining()];
            encoded.get(bytes);
            return bytes;
        } catch (CharacterCodingException e) {
            throw new IllegalArgumentException(what + " has half of a surrogate pair", e);
        }
    }
}
