package org.palmtop.core.engine;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PalmtopBundle;
import org.palmtop.core.bundle.ProcessorSpec;
import org.palmtop.core.media.AudioWindow;
import org.palmtop.core.media.ImageBatch;
import org.palmtop.core.media.PreparedImage;
import org.palmtop.core.media.Sound;

/**
 * Runner of vision.onnx and audio.onnx: from tiles and log-mel frames to feature rows. An encoder is loaded when it is
 * needed and freed after use, so that it and the decoder's working memory need not exist at the same time.
 */
final class Encoders {
    private static final long BATCH_BYTES = 32L << 20;

    /** Cancellation and progress of encoding. */
    interface Watch {
        boolean isCancelled();

        void onDone(int done, int total);
    }

    private final PalmtopBundle bundle;
    private final int threads;
    private final int hiddenSize;
    private final MemoryPlan plan;
    private final long availableBytes;

    /** @param availableBytes what there was before the decoder was loaded. */
    Encoders(PalmtopBundle bundle, Integer threads, MemoryPlan plan, long availableBytes) {
        this.bundle = bundle;
        this.plan = plan;
        this.availableBytes = availableBytes;
        this.threads = threads == null ? 0 : threads;
        this.hiddenSize = bundle.manifest().decoder.hiddenSize;
        ProcessorSpec.Audio audio = bundle.manifest().processor.audio;
        if (audio != null && audio.windowSteps % audio.downsampleRate != 0) {
            throw PalmtopException.bundle("bundle.json: processor.audio: window_steps is " + audio.windowSteps
                    + ", expected a multiple of downsample_rate " + audio.downsampleRate);
        }
    }

    /** Write the feature rows of an image, in the order of its ids. */
    void image(PreparedImage image, FloatBuffer into, Watch watch) {
        Manifest.Encoder graph = bundle.manifest().vision;
        int views = image.views();
        int atOnce = (int) Math.max(1, Math.min(views, BATCH_BYTES / graph.bytesPerItem));
        long session = open(graph.file);
        try {
            for (int first = 0; first < views; ) {
                stopIf(watch);
                ImageBatch batch = image.batch(first, atOnce);
                float[][] done = run(
                        graph.file, session, batch.names, batch.inputs, batch.shapes, types(batch), image.outputs());
                for (int output = 0; output < done.length; output++) {
                    expectRows(graph.file, done[output], batch.rows[output]);
                }
                image.place(batch, done, hiddenSize, into);
                first += batch.views;
                watch.onDone(first, views);
            }
        } finally {
            Native.close(session);
        }
    }

    private static int[] types(ImageBatch batch) {
        int[] types = new int[batch.elements.length];
        for (int i = 0; i < types.length; i++) {
            switch (batch.elements[i]) {
                case FLOAT:
                    types[i] = Native.FLOAT;
                    break;
                case BOOL:
                    types[i] = Native.BOOL;
                    break;
                default:
                    types[i] = Native.INT64;
            }
        }
        return types;
    }

    /** Write the feature rows of a sound. */
    void audio(Sound sound, boolean visionProjector, FloatBuffer into, Watch watch) {
        ProcessorSpec.Audio spec = bundle.manifest().processor.audio;
        String file = bundle.manifest().audio.file;
        List<AudioWindow> windows = AudioWindow.cut(sound.frames(), spec);
        int rows = 0;
        long session = open(file);
        try {
            for (int number = 0; number < windows.size(); number++) {
                stopIf(watch);
                AudioWindow window = windows.get(number);
                float[] logMel = sound.logMel(window.start, window.stop);
                ByteBuffer frames = buffer(4L * logMel.length);
                frames.asFloatBuffer().put(logMel);
                float[][] done = run(
                        file,
                        session,
                        new String[] {"log_mel", "left_context", "window", "projector"},
                        new ByteBuffer[] {
                            frames, number(window.leftContext), number(window.fillTo), number(visionProjector ? 1 : 0)
                        },
                        new long[][] {{1, window.stop - window.start, spec.nMels}, {1}, {1}, {1}},
                        new int[] {Native.FLOAT, Native.INT64, Native.INT64, Native.INT64},
                        "audio_features");
                rows += done[0].length / hiddenSize;
                if (done[0].length % hiddenSize != 0 || rows > sound.rows()) {
                    throw wrongRows(file, rows, sound.rows());
                }
                into.put(done[0]);
                watch.onDone(number + 1, windows.size());
            }
        } finally {
            Native.close(session);
        }
        if (rows != sound.rows()) {
            throw wrongRows(file, rows, sound.rows());
        }
    }

    private long open(String name) {
        plan.checkEncoder(availableBytes - plan.talking());
        File path = bundle.file(name);
        try {
            return Native.open(path.getPath(), threads);
        } catch (Native.NativeException error) {
            throw PalmtopException.bundle(path + ": onnxruntime cannot load it (" + error.getMessage() + ")");
        }
    }

    private static float[][] run(
            String file, long session, String[] names, ByteBuffer[] inputs, long[][] shapes, int[] types, String... outs) {
        try {
            return Native.run(session, names, inputs, shapes, types, outs);
        } catch (Native.NativeException error) {
            throw PalmtopException.bundle(
                    file + ": onnxruntime could not run an encoder (" + error.getMessage() + ")");
        }
    }

    private void expectRows(String file, float[] found, int expected) {
        if (found.length != expected * hiddenSize) {
            throw wrongRows(file, found.length / hiddenSize, expected);
        }
    }

    private static PalmtopException wrongRows(String file, int found, int expected) {
        return PalmtopException.bundle(file + ": gives " + found + " feature rows, expected " + expected);
    }

    private static void stopIf(Watch watch) {
        if (watch.isCancelled()) {
            throw new CachedSequence.Cancelled();
        }
    }

    private static ByteBuffer number(int value) {
        ByteBuffer buffer = buffer(8);
        buffer.putLong(0, value);
        return buffer;
    }

    private static ByteBuffer buffer(long bytes) {
        return ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.nativeOrder());
    }
}
