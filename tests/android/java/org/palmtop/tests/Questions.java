package org.palmtop.tests;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.GenaiConfig;
import org.palmtop.core.bundle.ImageSpec;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PalmtopBundle;
import org.palmtop.core.bundle.ProcessorSpec;
import org.palmtop.core.engine.MemoryPlan;
import org.palmtop.core.engine.Probe;
import org.palmtop.core.engine.GenerationOptions;
import org.palmtop.core.media.AudioWindow;
import org.palmtop.core.media.DynamicHd;
import org.palmtop.core.media.PcmArray;
import org.palmtop.core.media.PcmSource;
import org.palmtop.core.media.PhotoPolicy;
import org.palmtop.core.media.Resampler;
import org.palmtop.core.media.ImageBatch;
import org.palmtop.core.media.Slices;
import org.palmtop.core.media.SlicesLayout;
import org.palmtop.core.media.Sound;
import org.palmtop.core.media.DynamicHdLayout;
import org.palmtop.core.media.WavFile;
import org.palmtop.core.text.ChatTemplate;
import org.palmtop.core.text.Prompt;
import org.palmtop.core.text.StopStrings;
import org.palmtop.core.text.TextProbe;
import org.palmtop.core.text.TextProcessor;
import org.palmtop.core.text.Tokenizer;

/** What needs no native library. */
final class Questions {
    static final Object NOT_MINE = new Object();

    private String tokenizerPath;
    private Tokenizer tokenizer;

    Object answer(Request request) throws Exception {
        switch (request.text("ask")) {
            case "open":
                return open(request);
            case "manifest":
                return Manifest.read(request.any("of")).model;
            case "render":
                return render(request);
            case "encode":
                return tokenizer(request).encode(request.text("text"));
            case "spell":
                return tokenizer(request).spell(request.text("text"));
            case "decode":
                return tokenizer(request).decode(request.integers("ids"));
            case "pieces":
                return TextProbe.pieces(tokenizer(request), request.integers("ids"));
            case "prompt":
                return prompt(request);
            case "stop":
                return stop(request);
            case "layout":
                return layout(request);
            case "tiles":
                return tiles(request);
            case "slices_layouts":
                return slicesLayouts(request);
            case "slices_positions":
                return slicesPositions(request);
            case "slices":
                return slices(request);
            case "windows":
                return windows(request);
            case "log_mel":
                return logMel(request);
            case "resample":
                return resample(request);
            case "plan":
                return plan(request);
            case "choose":
                return Probe.choice(
                        Manifest.read(request.any("manifest")),
                        request.text("mode"),
                        request.weights("adapters"),
                        request.text("route"));
            case "sample_size":
                return PhotoPolicy.sampleSize(request.number("width"), request.number("height"));
            case "resolved":
                return resolved(request);
            case "draws":
                return draws(request);
            default:
                return NOT_MINE;
        }
    }

    private static Object open(Request request) {
        PalmtopBundle bundle = PalmtopBundle.open(request.file("folder"));
        if (request.has("hashes")) {
            bundle.checkHashes(request.has("remembered") ? request.file("remembered") : null, null);
        }
        GenaiConfig.check(bundle);
        return bundle.sizeBytes();
    }

    @SuppressWarnings("unchecked")
    private static Object render(Request request) {
        ChatTemplate template = new ChatTemplate(request.text("source"));
        Map<String, Object> answer = new LinkedHashMap<String, Object>();
        answer.put("literal", template.literalText());
        answer.put("takes_text", template.takesText());
        answer.put("text", template.render(
                (List<Map<String, Object>>) request.any("messages"),
                (Boolean) request.any("add_generation_prompt"),
                (Map<String, String>) request.any("names")));
        return answer;
    }

    private Tokenizer tokenizer(Request request) {
        if (!request.text("tokenizer").equals(tokenizerPath)) {
            tokenizer = new Tokenizer(request.file("tokenizer"));
            tokenizerPath = request.text("tokenizer");
        }
        return tokenizer;
    }

    private Object prompt(Request request) throws Exception {
        Manifest manifest = Manifest.read(request.any("manifest"));
        TextProcessor processor =
                new TextProcessor(request.file("tokenizer"), request.text("template"), manifest.processor);
        List<Object> answers = new ArrayList<Object>();
        for (Object messages : request.list("dialogues")) {
            List<TextProcessor.Turn> turns = new ArrayList<TextProcessor.Turn>();
            for (Object message : (List<?>) messages) {
                Map<?, ?> data = (Map<?, ?>) message;
                List<String> kinds = new ArrayList<String>();
                for (Object kind : (List<?>) data.get("media")) {
                    kinds.add((String) kind);
                }
                turns.add(new TextProcessor.Turn((String) data.get("role"), (String) data.get("text"), kinds));
            }
            Prompt prompt = processor.prompt(turns);
            List<List<Prompt.Segment>> media = new ArrayList<List<Prompt.Segment>>();
            for (int i = 0; i < prompt.positions.length; i++) {
                int[] markup = tokenizer(request).encode("<" + i + ">");
                media.add(Arrays.asList(
                        Prompt.Segment.rows(2), Prompt.Segment.text(markup), Prompt.Segment.rows(1 + i)));
            }
            Prompt.Expanded expanded = prompt.expand(media);
            List<Long> places = new ArrayList<Long>();
            for (long place : expanded.places) {
                places.add(place);
            }
            answers.add(Arrays.<Object>asList(prompt.ids, prompt.positions, expanded.ids, places));
        }
        return answers;
    }

    private static Object stop(Request request) {
        List<String> strings = new ArrayList<String>();
        for (Object string : request.list("strings")) {
            strings.add((String) string);
        }
        StopStrings stops = new StopStrings(strings);
        List<String> out = new ArrayList<String>();
        for (Object text : request.list("texts")) {
            out.add(stops.feed((String) text));
        }
        out.add(stops.isFound() ? "" : stops.rest());
        return out;
    }

    private static Object layout(Request request) {
        ImageSpec.DynamicHd spec = (ImageSpec.DynamicHd) Manifest.read(request.any("manifest")).processor.image;
        DynamicHdLayout layout =
                new DynamicHdLayout(request.number("width"), request.number("height"), spec);
        int hidden = 0;
        for (int view = 0; view < layout.views(); view++) {
            for (int patch = 0; patch < spec.patches(); patch++) {
                hidden += layout.isVisible(view, patch, 0) ? 0 : 1;
                hidden += layout.isVisible(view, 0, patch) ? 0 : 1000;
            }
        }
        return Arrays.<Object>asList(layout.rows, layout.columns, layout.usefulRows, layout.usefulColumns, hidden);
    }

    private static Object tiles(Request request) throws Exception {
        ImageSpec.DynamicHd spec = (ImageSpec.DynamicHd) Manifest.read(request.any("manifest")).processor.image;
        DynamicHdLayout layout =
                new DynamicHdLayout(request.number("width"), request.number("height"), spec);
        RawPicture picture = new RawPicture(request);
        long before = System.nanoTime();
        DynamicHd tiles = new DynamicHd(picture.open(), layout, spec);
        int side = spec.cropSize;
        int patches = spec.patches();
        ByteBuffer pixels = ByteBuffer.allocate(layout.views() * 3 * side * side * 4).order(ByteOrder.LITTLE_ENDIAN);
        ByteBuffer mask = ByteBuffer.allocate(layout.views() * patches * patches);
        java.nio.FloatBuffer floats = pixels.asFloatBuffer();
        for (int view = 0; view < layout.views(); view++) {
            tiles.pixels(view, floats);
            tiles.mask(view, mask);
        }
        Request.write(request.file("pixels"), pixels);
        Request.write(request.file("mask"), mask);
        Map<String, Object> answer = new LinkedHashMap<String, Object>();
        answer.put("grid", new int[] {layout.rows, layout.columns});
        answer.put("useful", new int[] {layout.usefulRows, layout.usefulColumns});
        answer.put("rows", layout.featureRows());
        answer.put("order", layout.featureOrder());
        answer.put("ms", (System.nanoTime() - before) / 1_000_000);
        return answer;
    }

    private static Object slicesLayouts(Request request) {
        ImageSpec.Slices spec = (ImageSpec.Slices) Manifest.read(request.any("manifest")).processor.image;
        List<Object> answers = new ArrayList<Object>();
        for (Object size : request.list("sizes")) {
            int width = ((Number) ((List<?>) size).get(0)).intValue();
            int height = ((Number) ((List<?>) size).get(1)).intValue();
            try {
                SlicesLayout layout = new SlicesLayout(width, height, spec);
                answers.add(Arrays.<Object>asList(
                        layout.rows, layout.columns, layout.width, layout.height, layout.sliceWidth, layout.sliceHeight));
            } catch (PalmtopException error) {
                answers.add(error.getMessage());
            }
        }
        return answers;
    }

    private static Object slicesPositions(Request request) {
        ImageSpec.Slices spec = (ImageSpec.Slices) Manifest.read(request.any("manifest")).processor.image;
        List<Object> answers = new ArrayList<Object>();
        for (int count : request.integers("counts")) {
            answers.add(SlicesLayout.nearestPositions(count, spec.trainedSide));
        }
        return answers;
    }

    private static Object slices(Request request) throws Exception {
        ImageSpec.Slices spec = (ImageSpec.Slices) Manifest.read(request.any("manifest")).processor.image;
        SlicesLayout layout = new SlicesLayout(request.number("width"), request.number("height"), spec);
        Slices slices = new Slices(new RawPicture(request).open(), layout, spec);
        ByteBuffer pixels = ByteBuffer.allocate(request.number("bytes")).order(ByteOrder.LITTLE_ENDIAN);
        List<Object> shapes = new ArrayList<Object>();
        List<Object> ids = new ArrayList<Object>();
        for (int first = 0; first < slices.views(); ) {
            ImageBatch batch = slices.batch(first, request.number("at_once"));
            pixels.put(batch.inputs[0]);
            List<Long> positions = new ArrayList<Long>();
            for (int i = 0; i < batch.shapes[1][0]; i++) {
                positions.add(batch.inputs[1].getLong(8 * i));
            }
            ids.add(positions);
            List<Long> shape = new ArrayList<Long>();
            for (long side : batch.shapes[0]) {
                shape.add(side);
            }
            shapes.add(shape);
            first += batch.views;
        }
        Request.write(request.file("pixels"), pixels);
        Map<String, Object> answer = new LinkedHashMap<String, Object>();
        answer.put("grid", new int[] {layout.rows, layout.columns});
        answer.put("rows", layout.featureRows());
        answer.put("markup", layout.markup());
        answer.put("shapes", shapes);
        answer.put("ids", ids);
        return answer;
    }

    private static Object windows(Request request) {
        Manifest manifest = Manifest.read(request.any("manifest"));
        List<Object> answer = new ArrayList<Object>();
        for (AudioWindow window : AudioWindow.cut(request.number("frames"), manifest.processor.audio)) {
            answer.add(new int[] {window.start, window.stop, window.leftContext, window.fillTo});
        }
        return answer;
    }

    private static PcmSource samples(Request request) throws Exception {
        return request.has("wav")
                ? WavFile.open(request.file("wav"))
                : new PcmArray(Request.floats(request.file("floats")), request.number("rate"));
    }

    private static Object logMel(Request request) throws Exception {
        Manifest manifest = Manifest.read(request.any("manifest"));
        try (Sound sound = new Sound(samples(request), manifest.processor.audio, "sound array")) {
            int first = request.has("first") ? request.number("first") : 0;
            int last = request.has("last") ? request.number("last") : sound.frames();
            Request.write(request.file("out"), sound.logMel(first, last));
            return new int[] {sound.frames(), sound.rows()};
        }
    }

    private static Object resample(Request request) throws Exception {
        PcmSource source = Resampler.to(request.number("to"), samples(request));
        float[] result = new float[(int) source.length()];
        for (int at = 0; at < result.length; ) { // in uneven pieces: any part must be the same part
            float[] piece = new float[Math.min(1000 + at % 777, result.length - at)];
            source.read(at, piece, piece.length);
            System.arraycopy(piece, 0, result, at, piece.length);
            at += piece.length;
        }
        Request.write(request.file("out"), result);
        return result.length;
    }

    private static Object plan(Request request) {
        Manifest manifest = Manifest.read(request.any("manifest"));
        MemoryPlan plan = new MemoryPlan(
                manifest,
                request.number("context"),
                request.has("media_rows") ? (Integer) request.number("media_rows") : null,
                request.number("chunk"));
        long available = ((Number) request.any("available")).longValue();
        if (request.has("check")) {
            plan.check(available);
        }
        List<Long> numbers = new ArrayList<Long>();
        long[] parts = {
            plan.context, plan.mediaRows, plan.weights, plan.usedWeights, plan.prepacked, plan.kvCache, plan.media,
            plan.encoders, plan.activations, plan.base, plan.text(), plan.total(), plan.largestContext(available)
        };
        for (long part : parts) {
            numbers.add(part);
        }
        return numbers;
    }

    static GenerationOptions options(Request request) {
        GenerationOptions options = new GenerationOptions();
        if (request.has("max_tokens")) {
            options.maxTokens(request.number("max_tokens"));
        }
        if (request.has("temperature")) {
            options.temperature(((Number) request.any("temperature")).doubleValue());
        }
        if (request.has("top_k")) {
            options.topK(request.number("top_k"));
        }
        if (request.has("top_p")) {
            options.topP(((Number) request.any("top_p")).doubleValue());
        }
        if (request.has("min_p")) {
            options.minP(((Number) request.any("min_p")).doubleValue());
        }
        if (request.has("repetition_penalty")) {
            options.repetitionPenalty(((Number) request.any("repetition_penalty")).doubleValue());
        }
        if (request.has("seed")) {
            options.seed((long) request.number("seed"));
        }
        if (request.has("stop")) {
            List<String> strings = new ArrayList<String>();
            for (Object string : request.list("stop")) {
                strings.add((String) string);
            }
            options.stop(strings);
        }
        return options;
    }

    /** What an answer is generated with: of the request, else of the bundle, else the default. */
    private static Object resolved(Request request) {
        ProcessorSpec.Text text = PalmtopBundle.open(request.file("folder")).manifest().processor.text;
        GenerationOptions all = options(request).or(text.generation);
        return Arrays.<Object>asList(
                all.maxTokens(), all.temperature(), all.topK(), all.topP(), all.minP(), all.repetitionPenalty());
    }

    private static Object draws(Request request) {
        List<?> list = request.list("logits");
        float[] logits = new float[list.size()];
        for (int i = 0; i < logits.length; i++) {
            logits[i] = ((Number) list.get(i)).floatValue();
        }
        return Probe.draws(
                logits, options(request), request.integers("never"), request.integers("seen"), request.number("count"));
    }
}
