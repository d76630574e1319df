package org.palmtop.core.engine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.Manifest;

/** What tests look at and apps cannot: logits of forced tokens, and the sampler by itself. */
public final class Probe {
    private Probe() {}

    private static final AnswerListener SILENT = new AnswerListener() {
        @Override
        public void onPiece(String text) {}

        @Override
        public void onProgress(Stage stage, int done, int total) {}
    };

    /** Logits after the prompt and after each forced token but the last: [forced.length][V]. */
    public static float[][] logits(
            Conversation conversation, List<Message> messages, Map<String, Double> adapters, int[] forced) {
        Conversation.Watch watch = conversation.new Watch(SILENT);
        conversation.prefill(conversation.ask(messages, adapters, null), watch);
        float[][] result = new float[forced.length][];
        for (int i = 0; i < forced.length; i++) {
            result[i] = conversation.track.logits();
            if (i + 1 < forced.length) {
                conversation.track.step(forced[i], watch);
            }
        }
        return result;
    }

    /** Ids of a prompt, media rows counted. */
    public static int[] ids(Conversation conversation, List<Message> messages) {
        return conversation.ask(messages, null, null).passage.ids;
    }

    /** Gates, audio projector and adapters of a choice. */
    public static List<Object> choice(Manifest manifest, String mode, Map<String, Double> adapters, String route) {
        Choice choice = Choice.of(manifest, mode, adapters, route);
        List<Double> gates = new ArrayList<Double>();
        for (float gate : choice.gates(manifest)) {
            gates.add((double) gate);
        }
        return Arrays.<Object>asList(gates, choice.audioProjector, choice.adapters);
    }

    /** {@code count} draws from the same logits, without memory of each other. */
    public static int[] draws(float[] logits, GenerationOptions options, int[] never, int[] seen, int count) {
        int[] ids = new int[count];
        Sampler sampler = new Sampler(options, never, seen);
        for (int i = 0; i < count; i++) {
            ids[i] = sampler.draw(logits);
        }
        return ids;
    }

    /** Version of libonnxruntime.so. */
    public static String version() throws Exception {
        Native.load();
        return Native.version();
    }

    /** What native code must survive: calls that no caller of ours makes. Gives the messages. */
    public static String[] misuse(String graph) {
        Native.load();
        String[] said = new String[6];
        java.nio.ByteBuffer small = java.nio.ByteBuffer.allocateDirect(8);
        java.nio.ByteBuffer heap = java.nio.ByteBuffer.allocate(8);
        try {
            long session = Native.open(graph, 1);
            said[0] = run(session, new java.nio.ByteBuffer[] {small}, new long[] {1, 1 << 30}, Native.FLOAT);
            said[1] = run(session, new java.nio.ByteBuffer[] {heap}, new long[] {1}, Native.FLOAT);
            said[2] = run(session, new java.nio.ByteBuffer[] {small}, new long[] {1}, 77);
            said[3] = run(session, new java.nio.ByteBuffer[] {small}, new long[] {2}, Native.FLOAT);
            Native.close(session);
            said[4] = run(0, new java.nio.ByteBuffer[] {small}, new long[] {1}, Native.FLOAT);
            Native.logits(0);
        } catch (Native.NativeException error) {
            said[5] = error.getMessage();
        }
        return said;
    }

    private static String run(long session, java.nio.ByteBuffer[] inputs, long[] shape, int type) {
        try {
            Native.run(session, new String[] {"x"}, inputs, new long[][] {shape}, new int[] {type}, new String[] {"y"});
            return null;
        } catch (Native.NativeException error) {
            return error.getMessage();
        }
    }
}
