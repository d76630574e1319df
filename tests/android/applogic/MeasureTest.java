import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.app.logic.Benchmark;
import org.palmtop.app.logic.BenchmarkReport;
import org.palmtop.app.logic.ProcessMemory;
import org.palmtop.app.logic.RecordingLimit;
import org.palmtop.app.logic.Sizes;
import org.palmtop.app.logic.Upright;
import org.palmtop.app.logic.Wav;
import org.palmtop.app.logic.WavWriter;
import org.palmtop.core.bundle.Json;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PalmtopBundle;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.media.PcmSource;

public final class MeasureTest {
    private static final Benchmark.Progress QUIET = new Benchmark.Progress() {
        @Override
        public void onRun(int done, int total) {}
    };

    private static FakeAnswerer open() {
        FakeAnswerer engine = new FakeAnswerer();
        engine.open(Check.bundle(), null);
        return engine;
    }

    public void theBenchmarkMeasuresTheModesThereAre() throws IOException {
        FakeAnswerer engine = open();
        List<Benchmark.Case> cases = new ArrayList<Benchmark.Case>();
        cases.add(Benchmark.text("What?"));
        cases.add(new Benchmark.Case("no such mode", "What?", Collections.<MediaItem>emptyList()));
        final List<Integer> runs = new ArrayList<Integer>();
        List<Benchmark.Row> rows = new Benchmark(engine).run(cases, new Benchmark.Progress() {
            @Override
            public void onRun(int done, int total) {
                Check.same(Benchmark.RUNS + 1, total);
                runs.add(done);
            }
        });
        Check.same(Benchmark.RUNS + 1, runs.size());
        Check.same(1, rows.size());
        Check.same(0.25, rows.get(0).ttftSeconds);
        Check.same(12.5, rows.get(0).tokensPerSecond);
        Map<String, String> about = new LinkedHashMap<String, String>();
        about.put("phone", "a \"b\"");
        BenchmarkReport report = new BenchmarkReport(rows, about, memory(3_120_000, 1_000_000));
        Check.that(report.text().contains("| text | 9 | 0.250 | 12.5 |"), report.text());
        Check.that(report.text().contains("memory at most: 3.19 GB of 2.02 GB"), report.text());
        Map<?, ?> json = (Map<?, ?>) Json.parse(report.json());
        Check.same("a \"b\"", ((Map<?, ?>) json.get("about")).get("phone"));
        Check.same(0.25, ((Map<?, ?>) ((List<?>) json.get("modes")).get(0)).get("ttft_s"));
    }

    private static ProcessMemory memory(int peakKb, int usedKb) throws IOException {
        File file = new File(Check.folder(), "status");
        Check.write(file, ("VmHWM:\t" + peakKb + " kB\nVmRSS:\t" + usedKb + " kB\n").getBytes("UTF-8"));
        return new ProcessMemory(file, 1_000_000_000);
    }

    public void noRunFindsTheLastOnesPromptInTheCache() {
        FakeAnswerer engine = open();
        new Benchmark(engine).run(Collections.singletonList(Benchmark.text("What?")), QUIET);
        String last = engine.asked.get(0).text;
        new Benchmark(engine).run(Collections.singletonList(Benchmark.text("What?")), new Benchmark.Progress() {
            @Override
            public void onRun(int done, int total) {}
        });
        Check.same("Run " + (Benchmark.RUNS + 1) + ".", last);
    }

    public void aCancelledBenchmarkHasNoResult() {
        FakeAnswerer engine = open();
        final Benchmark[] benchmark = {new Benchmark(engine)};
        Check.same(null, benchmark[0].run(Collections.singletonList(Benchmark.text("What?")), new Benchmark.Progress() {
            @Override
            public void onRun(int done, int total) {
                benchmark[0].cancel();
            }
        }));
    }

    public void aRecordingCanBeReadAtAnyTimeAndAfterwards() throws IOException {
        File file = new File(Check.folder(), "a.wav");
        short[] block = new short[1600];
        for (int i = 0; i < block.length; i++) {
            block[i] = (short) (i * 20 - 16000);
        }
        try (WavWriter writer = new WavWriter(file, 16000)) {
            writer.write(block, block.length);
            Check.same(0.1, Wav.seconds(file)); // as a killed app would find it
            writer.write(block, 800);
        }
        Check.same(0.15, Wav.seconds(file));
        PcmSource source = new Wav(file).open();
        float[] samples = new float[3];
        source.read(1601, samples, 3);
        Check.same(16000, source.rateHz());
        for (int i = 0; i < 3; i++) {
            Check.that(Math.abs(samples[i] - block[i + 1] / 32768f) < 1e-6, samples[i]);
        }
    }

    public void halfAnHourIsWrittenWithoutLyingInMemory() throws IOException {
        File file = new File(Check.folder(), "long.wav");
        short[] block = new short[16000];
        try (WavWriter writer = new WavWriter(file, 16000)) {
            for (int second = 0; second < 1800; second++) {
                writer.write(block, block.length);
            }
        }
        Check.same(1800.0, Wav.seconds(file));
        Check.that(file.delete(), "");
    }

    public void aRecordingEndsWhereTheModelsContextDoes() {
        Manifest manifest = PalmtopBundle.open(Check.bundle()).manifest();
        Check.same(614, RecordingLimit.seconds(manifest, 8192)); // (8192 - 512) tokens of 80 ms
        Check.same(1800, RecordingLimit.seconds(manifest, 1 << 20));
        Check.same(5, RecordingLimit.seconds(manifest, 100));
        Check.same(0, RecordingLimit.seconds(null, 8192));
    }

    /** Against EXIF's own words for where row 0 and column 0 lie (tag 0x0112). */
    public void photosStandUpright() {
        final int width = 3;
        final int height = 2;
        Upright.Stored stored = new Upright.Stored() {
            @Override
            public void read(int[] argb, int x, int y, int columns, int rows) {
                for (int i = 0; i < columns * rows; i++) {
                    argb[i] = (y + i / columns) * width + x + i % columns;
                }
            }
        };
        String[] expected = {
            "012/345", "210/543", "543/210", "345/012", "03/14/25", "30/41/52", "52/41/30", "25/14/03",
        };
        for (int tag = 1; tag <= 8; tag++) {
            Upright upright = Upright.of(tag);
            int columns = upright.isSideways() ? height : width;
            StringBuilder text = new StringBuilder();
            for (int y = 0; y < (upright.isSideways() ? width : height); y++) {
                int[] row = new int[columns];
                upright.row(stored, width, height, y, row);
                text.append(y > 0 ? "/" : "");
                for (int pixel : row) {
                    text.append(pixel);
                }
            }
            Check.same(expected[tag - 1], text.toString());
        }
    }

    public void memoryIsReadAsLinuxWritesIt() throws IOException {
        File file = new File(Check.folder(), "status");
        String text = "Name:\tx\nVmPeak:\t 999 kB\nVmHWM:\t  123456 kB\nVmRSS:\t   65432 kB\n";
        Check.write(file, text.getBytes("UTF-8"));
        ProcessMemory memory = new ProcessMemory(file, 1000);
        Check.same(123456L * 1024, memory.peakBytes);
        Check.same(65432L * 1024, memory.usedBytes);
        Check.same(65432L * 1024 + 1000, memory.availableBytes);
        Check.same(0L, new ProcessMemory(new File(Check.folder(), "none"), 7).usedBytes);
        Check.that(new ProcessMemory(ProcessMemory.STATUS, 0).usedBytes > 1 << 20, "this process holds nothing");
    }

    public void sizesAreForPeople() {
        Check.same("1 kB", Sizes.text(12));
        Check.same("4.0 MB", Sizes.text(4_000_000));
        Check.same("3.91 GB", Sizes.text(3_910_000_000L));
        Check.same("12:05", Sizes.clock(725.9));
    }
}
