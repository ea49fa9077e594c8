// The exception of every failed call.

package dev.t2lc;

/**
 * A call of the library failed. Unchecked: Kotlin knows no other, and most causes, such as a damaged
 * bundle, are nothing that the caller of one method can repair.
 */
public final class T2lcException extends RuntimeException {
    /** A closed handle, or an option that does not exist. */
    public static final int ARGUMENT = 1;

    /** The text is not a description. */
    public static final int DESCRIPTION = 2;

    /** The bundle cannot be used. */
    public static final int BUNDLE = 3;

    /** The backend is not in this build, cannot be loaded, or fails. */
    public static final int BACKEND = 4;

    /** No adapter can be made of the description. */
    public static final int COMPILE = 5;

    /** The output cannot be written. */
    public static final int OUTPUT = 6;

    /** The progress callback said stop. */
    public static final int CANCELLED = 7;

    /** A fault of the library; the call had no effect. */
    public static final int INTERNAL = 8;

    private static final long serialVersionUID = 1;

    private final int status;
    private final String code;

    // Called by t2lc_jni.c.
    T2lcException(int status, byte[] code, byte[] message) {
        super(message == null ? "t2lc failed with status " + status : T2lcNative.text(message));
        this.status = status;
        this.code = code == null ? "internal.no_error" : T2lcNative.text(code);
    }

    /** What went wrong, one of the constants; a newer library may have more. */
    public int status() {
        return status;
    }

    /** The same in detail, for example {@code bundle.digest}; stable. */
    public String code() {
        return code;
    }

    @Override
    public String toString() {
        return super.toString() + " (" + code + ")";
    }
}
