package org.palmtop.core.engine;

import ai.onnxruntime.genai.Config;
import ai.onnxruntime.genai.GenAIException;
import ai.onnxruntime.genai.Model;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.GenaiConfig;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PalmtopBundle;
import org.palmtop.core.text.TextProcessor;

/** A bundle in memory, ready to answer. Owns the native model and every conversation's generator. */
public final class ChatEngine implements AutoCloseable {
    private final PalmtopBundle bundle;
    private final EngineOptions options;
    private final MemoryPlan plan;
    private final TextProcessor text;
    private final MediaReader media;
    private final List<Conversation> conversations = new ArrayList<Conversation>();
    private Model model;

    /** Plan the memory, load the model. Takes seconds: call it on a worker thread. */
    public static ChatEngine load(PalmtopBundle bundle, EngineOptions options) {
        return new ChatEngine(bundle, options);
    }

    private ChatEngine(PalmtopBundle bundle, EngineOptions options) {
        this.bundle = bundle;
        this.options = options;
        Manifest manifest = bundle.manifest();
        plan = plan(manifest, options);
        GenaiConfig.check(bundle);
        text = new TextProcessor(bundle.file("tokenizer.json"), bundle.chatTemplate(), manifest.processor);
        Encoders encoders = new Encoders(bundle, options.threads, plan, options.availableBytes);
        media = new MediaReader(manifest.processor, text, encoders);
        Native.load();
        model = openModel();
    }

    /** Memory plan of the engine; {@code plan().context} is the longest conversation in tokens. */
    public MemoryPlan plan() {
        return plan;
    }

    /** A new dialogue; its KV cache is allocated when it first reads something. */
    public Conversation conversation() {
        Integer original = bundle.manifest().decoder.originalContext;
        CachedSequence track = new CachedSequence(
                new CachedSequence.Opener() {
                    @Override
                    public Decoder open() {
                        if (model == null) {
                            throw PalmtopException.input(
                                    bundle.folder() + ": the session is closed, expected an open one");
                        }
                        return new GenaiDecoder(bundle, model, plan);
                    }
                },
                plan.context,
                original,
                options.prefillChunk,
                bundle.manifest().decoder.hiddenSize);
        Conversation conversation = new Conversation(bundle.manifest(), track, text, media, plan.context);
        conversations.add(conversation);
        return conversation;
    }

    /** Free everything; conversations of this engine cannot be used any more. */
    @Override
    public void close() {
        for (Conversation conversation : conversations) {
            conversation.close();
        }
        conversations.clear();
        if (model != null) {
            model.close();
            model = null;
        }
    }

    /** Plan for the requested context, or for the longest that fits; refuses one that does not fit. */
    private static MemoryPlan plan(Manifest manifest, EngineOptions options) {
        int serves = manifest.decoder.contextLength;
        if (options.context != null && (options.context < 1 || options.context > serves)) {
            throw PalmtopException.input("option context: found " + options.context + ", "
                    + (options.context < 1
                            ? "expected at least 1"
                            : "this bundle serves at most " + serves + " tokens"));
        }
        int wanted = options.context == null ? serves : options.context;
        MemoryPlan plan = new MemoryPlan(manifest, wanted, options.mediaRows, options.prefillChunk);
        if (options.context == null && plan.text() > options.availableBytes) {
            int fits = plan.largestContext(options.availableBytes);
            int context = Math.min(serves, fits > 0 ? fits : MemoryPlan.MINIMUM_CONTEXT);
            plan = new MemoryPlan(manifest, context, options.mediaRows, options.prefillChunk);
        }
        plan.check(options.availableBytes);
        return plan;
    }

    private Model openModel() {
        String sessionOptions = options.threads == null
                ? ""
                : ", \"decoder\": {\"session_options\": {\"intra_op_num_threads\": " + options.threads + "}}";
        String overlay = "{\"model\": {\"context_length\": " + plan.context + sessionOptions
                + "}, \"search\": {\"max_length\": " + plan.context + "}}";
        try (Config config = new Config(bundle.folder().getPath())) {
            config.overlay(overlay);
            return new Model(config);
        } catch (GenAIException error) {
            throw GenaiDecoder.failure(bundle, "load it", error);
        }
    }
}
