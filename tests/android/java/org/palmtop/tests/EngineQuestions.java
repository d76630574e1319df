package org.palmtop.tests;

import java.io.File;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.PalmtopBundle;
import org.palmtop.core.engine.AnswerListener;
import org.palmtop.core.engine.ChatEngine;
import org.palmtop.core.engine.Conversation;
import org.palmtop.core.engine.EngineOptions;
import org.palmtop.core.engine.Message;
import org.palmtop.core.engine.Probe;
import org.palmtop.core.engine.Reply;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.media.PcmArray;
import org.palmtop.core.media.PcmSource;
import org.palmtop.core.media.Recording;
import org.palmtop.core.media.WavFile;

/** What needs the phone's native libraries: one engine and one conversation at a time. */
final class EngineQuestions {
    private ChatEngine engine;
    private Conversation conversation;

    Object answer(Request request) throws Exception {
        switch (request.text("ask")) {
            case "load":
                return load(request);
            case "new":
                return start();
            case "respond":
                return respond(request);
            case "logits":
                return logits(request);
            case "ids":
                return Probe.ids(conversation, messages(request));
            case "version":
                return Probe.version();
            case "misuse":
                return Probe.misuse(request.text("graph"));
            case "close":
                engine.close();
                return null;
            default:
                throw new IllegalArgumentException(request.text("ask"));
        }
    }

    private Object load(Request request) {
        if (engine != null) {
            engine.close();
            engine = null;
        }
        EngineOptions options = new EngineOptions().threads(1);
        if (request.has("context")) {
            options.context(request.number("context"));
        }
        if (request.has("media_rows")) {
            options.mediaRows(request.number("media_rows"));
        }
        if (request.has("available")) {
            options.availableBytes(((Number) request.any("available")).longValue());
        }
        if (request.has("chunk")) {
            options.prefillChunk(request.number("chunk"));
        }
        PalmtopBundle bundle = PalmtopBundle.open(request.file("folder"));
        engine = ChatEngine.load(bundle, options);
        conversation = engine.conversation();
        return engine.plan().context;
    }

    private Object start() {
        conversation.close();
        conversation = engine.conversation();
        return null;
    }

    private Object respond(final Request request) {
        final List<String> pieces = new ArrayList<String>();
        final List<Object> progress = new ArrayList<Object>();
        AnswerListener listener = new AnswerListener() {
            @Override
            public void onPiece(String text) {
                pieces.add(text);
                if (request.has("cancel_after_pieces") && pieces.size() == request.number("cancel_after_pieces")) {
                    conversation.cancel();
                }
            }

            @Override
            public void onProgress(Stage stage, int done, int total) {
                progress.add(java.util.Arrays.<Object>asList(stage.name(), done, total));
                if (stage.name().equals(request.text("cancel_at"))) {
                    conversation.cancel();
                }
            }
        };
        Reply reply = conversation.respond(
                messages(request), request.weights("adapters"), request.text("route"), Questions.options(request),
                listener);
        Map<String, Object> answer = new LinkedHashMap<String, Object>();
        answer.put("text", reply.text);
        answer.put("ids", reply.tokenIds);
        answer.put("finish_reason", reply.finishReason.label);
        answer.put("mode", reply.mode);
        answer.put("adapters", reply.adapters);
        answer.put("pieces", pieces);
        answer.put("progress", progress);
        answer.put("prompt_tokens", reply.usage.promptTokens);
        answer.put("cached_tokens", reply.usage.cachedTokens);
        answer.put("media_rows", reply.usage.mediaRows);
        answer.put("reprefilled", reply.usage.reprefilled);
        answer.put("ttft_s", reply.usage.ttftSeconds);
        answer.put("tokens_per_s", reply.usage.tokensPerSecond);
        return answer;
    }

    private Object logits(Request request) throws Exception {
        float[][] rows = Probe.logits(
                conversation, messages(request), request.weights("adapters"), request.integers("forced"));
        float[] all = new float[rows.length * rows[0].length];
        for (int i = 0; i < rows.length; i++) {
            System.arraycopy(rows[i], 0, all, i * rows[0].length, rows[0].length);
        }
        Request.write(request.file("out"), all);
        return rows.length;
    }

    private static List<Message> messages(Request request) {
        List<Message> messages = new ArrayList<Message>();
        for (Object entry : request.list("messages")) {
            Map<?, ?> data = (Map<?, ?>) entry;
            List<MediaItem> media = new ArrayList<MediaItem>();
            for (Object item : (List<?>) data.get("media")) {
                Map<?, ?> description = (Map<?, ?>) item;
                media.add("image".equals(description.get("kind"))
                        ? new RawPicture(description)
                        : recording(new Request(description)));
            }
            messages.add(new Message((String) data.get("role"), (String) data.get("text"), media));
        }
        return messages;
    }

    private static Recording recording(final Request request) {
        return new Recording(request.text("path")) {
            @Override
            public PcmSource open() {
                if (!request.has("rate")) {
                    return WavFile.open(new File(request.text("path")));
                }
                try {
                    return new PcmArray(Request.floats(request.file("path")), request.number("rate"));
                } catch (java.io.IOException error) {
                    throw new AssertionError(error);
                }
            }
        };
    }
}
