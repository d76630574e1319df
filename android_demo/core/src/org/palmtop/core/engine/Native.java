package org.palmtop.core.engine;

import java.nio.ByteBuffer;

/**
 * Functions of {@code libpalmtop.so} that no Java API on the phone offers. Encoders run through the C API of the APK's
 * libonnxruntime.so (onnxruntime's own Java classes are too new for dx), logits come from genai's C API.
 */
final class Native {
    /** onnxruntime's numbers of element types. */
    static final int FLOAT = 1;
    static final int INT64 = 7;
    static final int BOOL = 9;

    private static boolean isLoaded;

    private Native() {}

    /** Load the library once; everything below needs it. */
    static synchronized void load() {
        if (!isLoaded) {
            System.loadLibrary("palmtop");
            isLoaded = true;
        }
    }

    /** Error of onnxruntime or genai. */
    static final class NativeException extends Exception {
        private static final long serialVersionUID = 1L;

        NativeException(String message) {
            super(message);
        }
    }

    /** A session on a graph; {@code threads} 0 leaves their number to onnxruntime. */
    static synchronized native long open(String path, int threads) throws NativeException;

    /** Free a session. */
    static native void close(long session);

    /**
     * Run a graph.
     *
     * @param inputs direct buffers, from their beginning.
     * @return each output's floats.
     */
    static native float[][] run(
            long session, String[] inputNames, ByteBuffer[] inputs, long[][] shapes, int[] types, String[] outputNames)
            throws NativeException;

    /** Logits of the last token of a genai Generator, whose handle this is. */
    static synchronized native float[] logits(long generator) throws NativeException;

    /** Zeroed memory outside the Java heap, which on Android bounds even direct buffers; null if there is none. */
    static native ByteBuffer allocate(long bytes);

    /** Free memory of {@link #allocate}; nothing may use it any more. */
    static native void free(ByteBuffer memory);

    /** Version of libonnxruntime.so. */
    static synchronized native String version() throws NativeException;
}
