package org.palmtop.app.logic;

import java.io.File;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.BundleProgress;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PalmtopBundle;
import org.palmtop.core.engine.AnswerListener;
import org.palmtop.core.engine.ChatEngine;
import org.palmtop.core.engine.Conversation;
import org.palmtop.core.engine.EngineOptions;
import org.palmtop.core.engine.GenerationOptions;
import org.palmtop.core.engine.Message;
import org.palmtop.core.engine.Reply;

/** The seam's real side: the Java core over onnxruntime-genai. */
public final class CoreAnswerer implements Answerer {
    /** Memory that the phone has available now, in bytes. */
    public interface FreeMemory {
        long bytes();
    }

    private final File hashes;
    private final FreeMemory freeMemory;
    private Manifest manifest;
    private ChatEngine engine;
    private volatile Conversation conversation;

    /** @param hashes file in which checked hashes are remembered. */
    public CoreAnswerer(File hashes, FreeMemory freeMemory) {
        this.hashes = hashes;
        this.freeMemory = freeMemory;
    }

    @Override
    public void open(File folder, BundleProgress checked) {
        close();
        PalmtopBundle bundle = PalmtopBundle.open(folder);
        bundle.checkHashes(hashes, checked);
        EngineOptions options = new EngineOptions().availableBytes(freeMemory.bytes()).threads(threads());
        engine = ChatEngine.load(bundle, options);
        conversation = engine.conversation();
        manifest = bundle.manifest();
    }

    @Override
    public Manifest manifest() {
        return manifest;
    }

    @Override
    public int contextTokens() {
        return engine == null ? 0 : engine.plan().context;
    }

    @Override
    public Reply answer(
            List<Message> messages, Map<String, Double> adapters, GenerationOptions options, AnswerListener listener) {
        return conversation.respond(messages, adapters, options, listener);
    }

    @Override
    public void cancel() {
        Conversation asked = conversation;
        if (asked != null) {
            asked.cancel();
        }
    }

    @Override
    public void close() {
        Conversation asked = conversation;
        conversation = null;
        manifest = null;
        if (asked != null) {
            asked.close();
        }
        if (engine != null) {
            engine.close();
            engine = null;
        }
    }

    /** Phones have small cores beside the big ones, and a step waits for the slowest thread. */
    private static int threads() {
        int cores = Runtime.getRuntime().availableProcessors();
        return cores > 4 ? 4 : Math.max(1, cores);
    }
}
