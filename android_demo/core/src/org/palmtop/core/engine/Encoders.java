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
import org.palmtop.core.media.DynamicHd;
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
    void image(DynamicHd tiles, FloatBuffer into, Watch watch) {
        ProcessorSpec.Image spec = bundle.manifest().processor.image;
        Manifest.Encoder graph = bundle.manifest().vision;
        int views = tiles.layout.views();
        int rowsPerView = spec.pooled() * spec.pooled();
        int batch = (int) Math.max(1, Math.min(views, BATCH_BYTES / graph.bytesPerItem));
        int pixels = 3 * spec.cropSize * spec.cropSize;
        int patches = spec.patches() * spec.patches();
        // Rows come view by view, but are read in another order: where each is wanted.
        int[][] wanted = inverse(tiles.layout.featureOrder(), views * rowsPerView + 2);
        ByteBuffer values = buffer(4L * batch * pixels);
        ByteBuffer mask = buffer((long) batch * patches);
        long session = open(graph.file);
        try {
            for (int start = 0; start < views; start += batch) {
                stopIf(watch);
                int count = Math.min(batch, views - start);
                FloatBuffer floats = values.asFloatBuffer();
                mask.clear();
                for (int view = start; view < start + count; view++) {
                    tiles.pixels(view, floats);
                    tiles.mask(view, mask);
                }
                float[][] done = run(
                        graph.file,
                        session,
                        new String[] {"pixel_values", "patch_mask"},
                        new ByteBuffer[] {values, mask},
                        new long[][] {
                            {count, 3, spec.cropSize, spec.cropSize}, {count, spec.patches(), spec.patches()}
                        },
                        new int[] {Native.FLOAT, Native.BOOL},
                        "tile_features",
                        "separators");
                expectRows(graph.file, done[0], count * rowsPerView);
                expectRows(graph.file, done[1], 2);
                scatter(done[0], start * rowsPerView, wanted, into);
                if (start == 0) {
                    scatter(done[1], views * rowsPerView, wanted, into);
                }
                watch.onDone(start + count, views);
            }
        } finally {
            Native.close(session);
        }
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

    /** Put rows numbered from {@code first} wherever they are wanted. */
    private void scatter(float[] rows, int first, int[][] wanted, FloatBuffer into) {
        for (int row = 0; row < rows.length / hiddenSize; row++) {
            for (int place : wanted[first + row]) {
                FloatBuffer there = into.duplicate();
                there.position(place * hiddenSize);
                there.put(rows, row * hiddenSize, hiddenSize);
            }
        }
    }

    /** For each encoder output the places that hold its number. */
    private static int[][] inverse(int[] order, int outputs) {
        int[] counts = new int[outputs];
        for (int number : order) {
            counts[number]++;
        }
        int[][] places = new int[outputs][];
        for (int number = 0; number < outputs; number++) {
            places[number] = new int[counts[number]];
        }
        for (int place = 0; place < order.length; place++) {
            places[order[place]][--counts[order[place]]] = place;
        }
        return places;
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
